"""From benchmarks.yaml to records: what is run, what determines it, and what it leaves behind.

``lewm_bench.run("pointmaze", ...)`` runs a suite: ``lewm_bench.api.run``.
"""

from lewm_bench.core.verb_package import make_verb

make_verb(__name__)
