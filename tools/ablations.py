#!/usr/bin/env python3
"""Ablations of docs/training.md: variants of one small recall model, three seeds each, equal tokens.

    tools/ablations.py build/trainer/hadal -o DIR [--variants hybrid,windows] [--seeds 0,1,2]

Runs what DIR lacks, one process at a time, and prints a table: recall by distance after the last step, mean and
standard deviation over the seeds. A run that was stopped goes on where it was.
"""
import argparse
import copy
import json
import os
import statistics
import subprocess
import sys

MODEL = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "hidden_size": 128,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 64, "qk_rope_head_dim": 16,
    "q_lora_rank": 64, "o_groups": 2, "o_lora_rank": 64, "sliding_window": 32, "compress_ratios": [0, 4, 16],
    "num_nextn_predict_layers": 0, "num_hash_layers": 1, "index_n_heads": 4, "index_head_dim": 32, "index_topk": 8,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 128,
    "routed_scaling_factor": 1.5, "swiglu_limit": 10.0, "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc",
    "norm_topk_prob": True, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "rms_norm_eps": 1e-6,
    "vocab_size": 192, "rope_theta": 10000, "compress_rope_theta": 160000, "max_position_embeddings": 4096,
}
RUN = {
    "tokens_per_step": 4096, "tokens_per_pass": 4096, "learning_rate": 0.003, "warmup": 50, "decay_from": 1.0,
    "bias_speed": 0.01, "save_every": 50, "evaluate_every": 50, "evaluate_rows": 64,
    "init": {"aligned": True, "noise": 0.02},
    "distances": [31, 62, 93, 174],
    "data": {"mixed": {"kind": "recall", "keys": 64, "values": 64, "fillers": 64, "facts": 40}},
    "stages": [{"name": "dense", "steps": 150, "length": 256, "data": "mixed"}],
}
DEEP = {"num_hidden_layers": 6, "compress_ratios": [0, 4, 16, 4, 16, 4]}
LAST_THIRD_QUANTISED = [{"name": "dense", "steps": 100, "length": 256, "data": "mixed"},
                        {"name": "formats", "steps": 50, "length": 256, "data": "mixed", "quantise": True}]
# name: (what it is, changes of the model, changes of the run)
VARIANTS = {
    "hybrid": ("windows, ratios 4 and 16; aligned; mHC; Muon; float32", {}, {}),
    "windows": ("windows only", {"compress_ratios": [0, 0, 0]}, {}),
    "windows-aligned": ("windows only, their own path aligned", {"compress_ratios": [0, 0, 0]},
                        {"init": {"aligned": True, "aligned_windows": True, "noise": 0.02}}),
    "windows-ordinary": ("windows only, ordinary initialisation", {"compress_ratios": [0, 0, 0]},
                         {"init": {"aligned": False}}),
    "ordinary": ("hybrid, ordinary initialisation", {}, {"init": {"aligned": False}}),
    "adamw-1": ("hybrid, AdamW at 1e-3", {}, {"optimiser": {"muon": False}, "learning_rate": 0.001}),
    "adamw-3": ("hybrid, AdamW at 3e-3", {}, {"optimiser": {"muon": False}}),
    "fp4": ("hybrid, the last 50 steps in FP4 and FP8", {}, {"stages": LAST_THIRD_QUANTISED}),
    "deep": ("hybrid of six layers, mHC of four streams", DEEP, {}),
    "deep-plain": ("hybrid of six layers, one stream", dict(DEEP, hc_mult=1), {}),
}


def run_file(variant, seed):
    _, model, changes = VARIANTS[variant]
    run = copy.deepcopy(RUN)
    run.update(changes, model=dict(MODEL, **model), seed=seed)
    return run


def last_evaluation(directory):
    """(steps done, evaluation record) of a finished run, else None."""
    try:
        with open(os.path.join(directory, "log.jsonl")) as log:
            records = [json.loads(line) for line in log]
    except FileNotFoundError:
        return None
    evaluations = [r for r in records if "held_out_loss" in r]
    return evaluations[-1] if evaluations and os.path.exists(os.path.join(directory, "model", "config.json")) else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    variants = arguments.variants.split(",")
    for variant in variants:
        if variant not in VARIANTS:
            sys.exit(f"--variants: expected some of {', '.join(VARIANTS)}, found {variant}")
    os.makedirs(arguments.output, exist_ok=True)
    rows = {}
    for seed in seeds:
        for variant in variants:
            directory = os.path.join(arguments.output, f"{variant}-{seed}")
            if last_evaluation(directory) is None:
                path = directory + ".json"
                with open(path, "w") as file:
                    json.dump(run_file(variant, seed), file, indent=1)
                print(f"{variant}, seed {seed}", file=sys.stderr, flush=True)
                subprocess.run([arguments.trainer, "train", path, "-o", directory, "--threads", "1"], check=True,
                               stdout=subprocess.DEVNULL)
            rows.setdefault(variant, []).append(last_evaluation(directory))
    names = list(rows[variants[0]][0]["recall"])
    print(f"| {'variant':<16} | " + " | ".join(f"{n:>13}" for n in names) + f" | {'held-out loss':>13} |")
    print("|" + "---|" * (len(names) + 2))
    for variant, evaluations in rows.items():
        def cell(values):
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            return f"{statistics.mean(values):.3f} ± {spread:.3f}"
        cells = [cell([e["recall"][n] for e in evaluations]) for n in names]
        print(f"| {variant:<16} | " + " | ".join(f"{c:>13}" for c in cells) +
              f" | {cell([e['held_out_loss'] for e in evaluations]):>13} |")


if __name__ == "__main__":
    main()
