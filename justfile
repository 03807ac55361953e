# The lines of CI, one by one. `just` alone runs what a change must pass.

default: fmt clippy test deny

fmt:
    cargo fmt --check

clippy:
    cargo clippy --release --all-targets -- -D warnings
    cargo clippy --release --all-targets --no-default-features -- -D warnings

test:
    cargo test --release
    cargo test --release --no-default-features

deny:
    cargo deny check bans licenses sources

# Everything, as CI runs it.
ci:
    .ci/run

# The main job: a few minutes on two cores.
quickstart:
    cargo run --release -- run pipelines/quickstart.toml

# Writes the schema that a test compares.
schema:
    cargo run --release -- schema > schemas/recipe.schema.json

# What `benches/gpu/README.md` asks for, on a machine with a GPU and PyTorch.
gpu TORCH:
    cargo build --release --features cuda
    for piece in machine parity gpt2 gpt2-2048 1b pauses table; do python3 benches/peers/gpu.py $piece target/release/pausedata {{TORCH}} benches/gpu/raw; done
