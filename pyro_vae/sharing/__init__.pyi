from .card import model_card as model_card
from .pulling import pull as pull
from .pushing import push as push
