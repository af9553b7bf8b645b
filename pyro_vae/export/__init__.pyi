from .write import Exported as Exported
from .write import Format as Format
from .write import export_pair as export_pair
