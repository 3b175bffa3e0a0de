"""From benchmarks.yaml to records: what is run, what determines it, and what it leaves behind."""
