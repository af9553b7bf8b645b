from .compare import write_comparison as write_comparison
from .explorer import write_explorer as write_explorer
from .report import write_report as write_report
