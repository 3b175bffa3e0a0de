"""Agents: name to ``module:attribute``. Strings, so that listing them imports nothing."""

AGENTS: dict[str, str] = {
    "noop": "lewm_bench.agents.scripted:NOOP",
    "random": "lewm_bench.agents.scripted:RANDOM",
    "straight": "lewm_bench.agents.straight:STRAIGHT",
    "greedy": "lewm_bench.agents.oracle:GREEDY",
    "oracle": "lewm_bench.agents.oracle:ORACLE",
    "gcbc": "lewm_bench.agents.gcbc:GCBC_FAMILY",
    "gcivl": "lewm_bench.agents.gcivl:GCIVL_FAMILY",
    "gciql": "lewm_bench.agents.gciql:GCIQL_FAMILY",
    "dino-wm": "lewm_bench.agents.dino_wm:DINO_WM",
    "lewm": "lewm_bench.agents.lewm:LEWM",
    "fast-lewm": "lewm_bench.agents.fast_lewm:FAST_LEWM",
    "h-jepa": "lewm_bench.agents.h_jepa:H_JEPA",
    "hwm": "lewm_bench.agents.hwm:HWM_FAMILY",
    "pldm": "lewm_bench.agents.pldm:PLDM_FAMILY",
    "jepa-ema": "lewm_bench.agents.jepa_ema:JEPA_EMA",
    "delta-jepa": "lewm_bench.agents.delta_jepa:DELTA_JEPA",
    "sac-her": "lewm_bench.agents.sac_her:SAC_HER",
}
