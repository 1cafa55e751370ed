# The commands of everyday work; `just` alone lists them. .ci/run calls the same recipes.
# `pip install rust-just` or `cargo install just`.

set shell := ["bash", "-euo", "pipefail", "-c"]

# No recipe may find, or look for, an AWS account.
export AWS_EC2_METADATA_DISABLED := "true"
export AWS_DEFAULT_REGION := env("AWS_DEFAULT_REGION", "us-east-1")
export SAM_CLI_TELEMETRY := "0"

# The machine as SAM names it.
architecture := if arch() == "aarch64" { "arm64" } else { arch() }

# This machine as containers see it on Linux: `ip address show docker0`.
bridge := env("DOCKER_BRIDGE", "172.17.0.1")

# Keys for the emulators, and nothing of STS, which sam would ask whose account it is.
no_account := "AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local AWS_MAX_ATTEMPTS=1 AWS_ENDPOINT_URL_STS=http://127.0.0.1:9"

# Where .ci/run puts what it installs as well.
tools := env("CARGO_TARGET_DIR", justfile_directory() / "target") / "ci-tools"
export PATH := tools / "venv/bin:" + tools / "deny/venv/bin:" + env("PATH")

advisory_db := "https://github.com/RustSec/advisory-db"

# List the recipes
default:
    @just --list

# Start the local stack: just run --http 127.0.0.1:3001
run *ARGS:
    cargo run -- {{ ARGS }}

# Print a developer token: just token clinic-123 CLINIC_ADMIN
token clinic role:
    @cargo run --quiet -- token --clinic {{ clinic }} --role {{ role }}

# Run an operator's command, see infra/docs/OPERATIONS.md: just operator status --table T
operator *ARGS:
    cargo run --quiet --package comms-operator -- {{ ARGS }}

# Run every test
test *ARGS:
    cargo test --workspace {{ ARGS }}

# Look at the local stack's pages in a headless Chromium; with SCREENSHOTS=DIR it leaves pictures there
page *ARGS:
    cargo test --workspace --features comms-local/browser --test page {{ ARGS }}

# Format everything
fmt:
    cargo fmt --all
    cargo fmt --manifest-path infra/fuzz/Cargo.toml

# Check the formatting
fmt-check:
    cargo fmt --all --check
    cargo fmt --manifest-path infra/fuzz/Cargo.toml --check

# Lint everything; warnings are errors
lint:
    cargo clippy --workspace --all-targets --features comms-local/browser --locked -- -D warnings

# Check licences, banned crates, sources, and advisories where their database can be reached
deny:
    @command -v cargo-deny >/dev/null || { echo "There is no cargo-deny here: .ci/run deny installs it, or cargo install --locked cargo-deny" >&2; exit 1; }
    cargo deny --locked check --hide-inclusion-graph licenses bans sources
    @if GIT_TERMINAL_PROMPT=0 timeout 30 git ls-remote --quiet {{ advisory_db }} HEAD >/dev/null 2>&1; then \
        cargo deny --locked check advisories; \
    else \
        echo "NOT CHECKED: advisories, because {{ advisory_db }} cannot be reached from here"; \
    fi

# Check which crate uses which, and that no files of a crate import each other in a circle
imports:
    infra/ci/imports.sh
    python3 infra/ci/circles.py

# Says what to install where a recipe's program is missing
[private]
needs program package environment:
    @command -v "{{ program }}" >/dev/null || { \
        echo "There is no {{ file_name(program) }} here. Install it (.ci/run does, and has the version):" >&2; \
        echo "  python3 -m venv {{ environment }} && {{ environment }}/bin/pip install {{ package }}" >&2; \
        exit 1; }

# Check the spelling, the field's words, and that the ADR index is whole
words: (needs (tools / "lint/venv/bin/typos") "typos" (tools / "lint/venv"))
    {{ tools }}/lint/venv/bin/typos
    python3 infra/ci/words.py
    python3 infra/ci/adr.py

# Check the files of .github against their schemas
workflows: (needs (tools / "lint/venv/bin/check-jsonschema") "check-jsonschema" (tools / "lint/venv"))
    {{ tools }}/lint/venv/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
    {{ tools }}/lint/venv/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

# Run the examples of infra/examples against the local stack
examples: (needs (tools / "examples/venv/bin/python") "boto3" (tools / "examples/venv"))
    PATH={{ tools }}/examples/venv/bin:$PATH infra/ci/examples.sh

# Check the templates, and that the SAM template gives no right that is not written there
template:
    @just needs sam aws-sam-cli {{ tools }}/venv
    @just needs cfn-lint cfn-lint {{ tools }}/venv
    @just needs {{ tools }}/checkov/venv/bin/checkov checkov {{ tools }}/checkov/venv
    sam validate --lint --template-file template.yaml
    cfn-lint template.yaml infra/cloudformation/*.yaml
    python3 infra/ci/expansion.py
    python3 infra/ci/rules.py
    PATH={{ tools }}/checkov/venv/bin:$PATH infra/ci/checkov.sh

# Give every event of tests/events to the functions' programs: just events release
events *PROFILE:
    infra/ci/events.sh {{ PROFILE }}

# The same by `sam local invoke`, where Docker is at hand: just sam-local target/release
sam-local *DIRECTORY:
    infra/ci/sam-local.sh {{ DIRECTORY }}

# Have Python's `email` read 2,000 odd messages, and compare them with what was posted
mime:
    cargo run --quiet --locked --package comms-adapters --example mime | python3 infra/ci/mime.py

# Ask SpamAssassin and rspamd (Debian packages) what they hold against the demo mail
spam-score:
    infra/ci/spam-score.sh

# Check the HTTP contract
openapi:
    @just needs openapi-spec-validator openapi-spec-validator {{ tools }}/venv
    openapi-spec-validator infra/openapi.yaml

# Generate clients from the HTTP contract and let them talk to the local stack
clients: (needs (tools / "clients/venv/bin/openapi-generator-cli") "openapi-generator-cli pydantic python-dateutil urllib3" (tools / "clients/venv"))
    PATH={{ tools }}/clients/venv/bin:$PATH infra/ci/clients.sh

# Send through real Postfix and Dovecot and count what arrives: just mail-servers greylisting
mail-servers *NAME:
    infra/ci/mail-servers.sh {{ NAME }}

# Run the shell blocks of OPERATIONS.md and RUNBOOK.md against the local stack
operations: (needs (tools / "aws/venv/bin/aws") "awscli" (tools / "aws/venv"))
    cargo build --locked --workspace --all-targets
    PATH={{ tools }}/aws/venv/bin:$PATH python3 infra/ci/operations.py \
        "$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug"

# Deploy into an emulator by `sam deploy`, send, and restore what was lost (ministack[full], PyPI): just emulator target/release
emulator *PROGRAMS:
    infra/ci/emulator.sh {{ PROGRAMS }}

# Everything that .ci/run runs, with the tools that are installed already
ci: test mime events page fmt-check lint imports words workflows deny template openapi operations clients examples sam-local (events "release")

# Build the functions' packages for this machine's instruction set
build:
    ARCHITECTURE={{ architecture }} sam build --parameter-overrides Architecture={{ architecture }}

# Start the local stack where functions in containers reach it
run-for-containers *ARGS:
    cargo run -- --aws {{ bridge }}:4566 --smtp {{ bridge }}:2525 {{ ARGS }}

# Invoke a function in a container against `just run-for-containers`: just invoke WorkerFunction worker-one
invoke function event *ARGS: build
    {{ no_account }} sam local invoke {{ function }} --event tests/events/{{ event }}.json \
        --env-vars tests/events/env.json --add-host host.docker.internal:host-gateway \
        --parameter-overrides Architecture={{ architecture }} {{ ARGS }}

# Measure everything that infra/docs/PERFORMANCE.md shows, on a machine that does nothing else: half an hour and more
bench: bench-functions
    cargo bench --package comms-bench --bench startup
    cargo bench --package comms-bench --bench smtp
    cargo bench --package comms-bench --bench provider_http
    cargo bench --package comms-bench --bench fairness
    cargo bench --package comms-bench --bench hot

# Measure deliveries through the functions' release programs, with a plot
bench-functions *ARGS:
    cargo build --release $(infra/ci/functions.sh packages)
    cargo build --release --package comms-bench --example hello
    cargo bench --package comms-bench --bench functions -- --plot {{ justfile_directory() }}/infra/docs/throughput.svg {{ ARGS }}

# Count the instructions of what is done for every message, where valgrind is (it tells functions by symbols)
instructions *ARGS:
    @command -v valgrind >/dev/null || { echo "there is no valgrind here" >&2; exit 1; }
    cargo install --quiet --locked --root {{ tools }} \
        gungraun-runner@$(sed -n '/^name = "gungraun-runner"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
    GUNGRAUN_RUNNER={{ tools }}/bin/gungraun-runner cargo bench --package comms-bench --bench instructions \
        --config 'profile.bench.strip="none"' -- {{ ARGS }}

# Fuzz the readers of what comes in, a minute each (cargo-fuzz): just fuzz -s 600 requests
fuzz *ARGS:
    @command -v cargo-fuzz >/dev/null || { echo "There is no cargo-fuzz here: cargo install --locked cargo-fuzz" >&2; exit 1; }
    infra/ci/fuzz.sh {{ ARGS }}

# Change a subject's code a little at a time, and see which changes its tests miss (cargo-mutants): just mutants auth
mutants *ARGS:
    @command -v cargo-mutants >/dev/null || { echo "There is no cargo-mutants here: cargo install --locked cargo-mutants" >&2; exit 1; }
    infra/ci/mutants.sh {{ ARGS }}

# Show how large the functions' binaries are, as built and zipped
sizes:
    cargo build --locked --release $(infra/ci/functions.sh packages)
    @dir=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'); \
    for name in $(infra/ci/functions.sh); do \
        printf '%-12s %6d kB, %6d kB zipped\n' "$name" \
            "$(($(wc -c < "$dir/release/$name") / 1000))" "$(($(gzip -9c "$dir/release/$name" | wc -c) / 1000))"; \
    done
