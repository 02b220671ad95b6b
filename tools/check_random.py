#!/usr/bin/env python3
"""Random architectures against the oracle: hadal's exact numerics must agree with ORACLE on checkpoints that it writes.

usage: tools/check_random.py HADAL ORACLE [--count N] [--seed S] [--wide]

Draws layer patterns, head counts and dims, windows, groups, experts, ratios, Sinkhorn steps and lengths; a draw
whose smallest selection margin is below 1e-5 is redrawn (float32 noise could change a selection), tolerances are
never widened. --wide: one checkpoint with hidden 1024, head_dim 512 and index heads of 128 instead.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

BASE = {"architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc", "norm_topk_prob": True, "n_shared_experts": 1, "num_key_value_heads": 1,
        "hidden_act": "silu", "num_nextn_predict_layers": 1, "max_position_embeddings": 65536,
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}}


def draw(r):
    """An architecture. Ends of ranges are drawn more often than their middles: window 1, all or no hash layers, no
    MTP block, no YaRN, one head, entries of one token, blocks longer than the prompt."""
    layers = r.randint(1, 5)
    rope = 2 * r.randint(2, 12)
    head_dim = rope + 8 * r.randint(1, 10)
    index_dim = r.choice([d for d in (16, 32, 64, 128) if d >= rope])
    groups = r.randint(1, 3)
    experts = r.randint(2, 10)
    top = r.randint(1, min(experts, 4))
    mtp = r.choice([0, 1, 1])
    yarn = {"type": "yarn", "factor": r.choice([4, 16]), "beta_fast": 32, "beta_slow": 1,
            "original_max_position_embeddings": r.choice([256, 65536])}
    return dict(BASE, vocab_size=r.randint(20, 300), num_nextn_predict_layers=mtp, hidden_size=32 * r.randint(1, 6), num_hidden_layers=layers,
                num_hash_layers=r.choice([0, layers, r.randint(0, layers)]), num_attention_heads=groups * r.randint(1, 3), head_dim=head_dim,
                qk_rope_head_dim=rope, q_lora_rank=r.randint(20, 160), o_groups=groups, o_lora_rank=r.randint(8, 80),
                sliding_window=r.choice([1, 2, r.randint(1, 140), r.randint(1, 140), r.randint(1, 140)]), index_n_heads=r.randint(1, 10), index_head_dim=index_dim,
                index_topk=r.randint(1, 60), n_routed_experts=experts, num_experts_per_tok=top,
                moe_intermediate_size=32 * r.randint(1, 6), routed_scaling_factor=round(r.uniform(0.5, 3), 2),
                swiglu_limit=r.choice([0.0, 1.5, 10.0]), hc_mult=r.randint(1, 5), hc_sinkhorn_iters=r.randint(1, 20),
                hc_eps=r.choice([1e-6, 1e-5]), rms_norm_eps=r.choice([1e-6, 1e-5]), rope_theta=r.choice([500, 10000]),
                compress_rope_theta=r.choice([8000, 160000]),
                rope_scaling=r.choice([yarn, yarn, yarn, None]),
                compress_ratios=[r.choice([0, 4, 4, 4, 128, 16, 2, r.choice([1, 3, 5, 64, 400])]) for _ in range(layers)] + [0] * mtp)


def wide():
    return dict(BASE, vocab_size=500, hidden_size=1024, num_hidden_layers=3, num_hash_layers=1, num_attention_heads=4,
                head_dim=512, qk_rope_head_dim=64, q_lora_rank=256, o_groups=2, o_lora_rank=256, sliding_window=128,
                index_n_heads=8, index_head_dim=128, index_topk=24, n_routed_experts=4, num_experts_per_tok=2,
                moe_intermediate_size=512, routed_scaling_factor=1.5, swiglu_limit=10.0, hc_mult=4,
                hc_sinkhorn_iters=20, hc_eps=1e-6, rms_norm_eps=1e-6, rope_theta=10000, compress_rope_theta=160000,
                rope_scaling={"type": "yarn", "factor": 16, "beta_fast": 32, "beta_slow": 1,
                              "original_max_position_embeddings": 65536}, compress_ratios=[0, 4, 128, 0])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("hadal")
    p.add_argument("oracle")
    p.add_argument("--count", type=int, default=50)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--wide", action="store_true")
    a = p.parse_args()
    done = redrawn = failed = 0
    seed = a.seed
    while done < (1 if a.wide else a.count):
        seed += 1
        r = random.Random(seed)
        with tempfile.TemporaryDirectory() as d:
            config, model, golden = os.path.join(d, "c.json"), os.path.join(d, "m"), os.path.join(d, "g.safetensors")
            json.dump(wide() if a.wide else draw(r), open(config, "w"))
            style = "release" if a.wide else r.choice(["release", "release", "base", "bf16"])
            oracle = [sys.executable, a.oracle]
            subprocess.run(oracle + ["synth", "--config", config, "--seed", str(seed), "-o", model, "--style", style,
                                     "--shards", str(r.choice([1, 1, 3]))] + r.choice([[], [], ["--legacy-names"]]), check=True)
            length = 300 if a.wide else r.choice([1, 2, 3, 5, 8, 30, 65, 130, 270]) + r.randint(30, 60)
            out = subprocess.run(oracle + ["golden", model, "-o", golden, "--length", str(length), "--seed", str(seed),
                                           "--new", "0", "--exact-only"], check=True, capture_output=True, text=True)
            margins = json.loads(out.stdout)["exact.min_margins"]
            if any(float(m) < 1e-5 for m in margins.values()):
                redrawn += 1
                continue
            # The plain loops would take minutes on the wide one.
            how = [64, 2, 1, "auto"] if a.wide else [r.choice([0, 1, 7, 64]), r.choice([1, 2]), r.choice([1, 3]),
                                                     r.choice(["auto", "auto", "reference"])]
            flags = [str(x) for pair in zip(["--chunk", "--threads", "--batch", "--isa"], how) for x in pair]
            run = subprocess.run([a.hadal, "verify", "-m", model, "--golden", golden, "--numerics", "exact"] + flags,
                                 capture_output=True, text=True)
            done += 1
            if run.returncode:
                failed += 1
                print("seed %d:\n%s%s%s" % (seed, json.dumps(json.load(open(config))), run.stdout, run.stderr))
    print("check_random: %d architectures agree, %d do not; %d redrawn for small margins" % (done - failed, failed, redrawn))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
