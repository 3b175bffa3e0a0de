"""Other people's recordings as datasets of ours: one file per format, and what all of them share."""

from lewm_bench.data.importers.importing import IMPORTED, Imported, Wish, import_data, sample_of
from lewm_bench.data.importers.proof import prove
from lewm_bench.data.importers.table import Names

__all__ = ["IMPORTED", "Imported", "Names", "Wish", "import_data", "prove", "sample_of"]
