"""The training loop, its budget and what it watches.

``lewm_bench.train("lewm", ...)`` trains an agent: ``lewm_bench.api.train``.
"""

from lewm_bench.core.verb_package import make_verb

make_verb(__name__)
