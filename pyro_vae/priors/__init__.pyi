from .base import AutoregressivePrior as AutoregressivePrior
from .base import CodeGrid as CodeGrid
from .base import Prior as Prior
from .pixelcnn import GatedPixelCNN as GatedPixelCNN
from .transformer import TransformerPrior as TransformerPrior
from .uniform import UniformPrior as UniformPrior
from .wavenet import WaveNet as WaveNet
