#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds, runs and tests Reset Guard. Needs Go and nothing else; the race
# detector also needs a C compiler.
set -eu
called_from=$PWD
cd "$(dirname "$0")"

module=github.com/resetguard/caddy-resetguard
caddy_version=v2.11.9

usage() {
	cat <<'EOF'
Usage: ./xcaddy.sh <verb>

  build             make ./caddy: Caddy with Reset Guard, for production
  run [Caddyfile]   build with fault injection and run the Caddyfile
                    (default: Caddyfile.example, a site on http://localhost:8080)
  test              everything that CI runs
  demo [options]    the same traffic through reverse_proxy and reset_guard, as a
                    table; "demo --help" lists the options
  soak              a minute of steady load for each of eighteen cases of failing
                    origins, as a table; takes twenty minutes
  simulate          the long form of the simulations of health and limits: the
                    tables of docs/ejection.md, docs/overload.md, docs/ratelimit.md
  overload          reset_guard, reverse_proxy and a fixed limit in front of origins that
                    get more than they can do, as a table; takes fifteen minutes
  unbroken          downloads of 64 MiB from origins that break off every answer, idle
                    connections that are forgotten, first bytes of streams and the memory
                    of 500 downloads beside reverse_proxy; takes fifteen minutes
  limits            two hundred people behind one address and an abuser, over TLS, as a
                    table, and rate_limit auto beside off; takes eight minutes
  bench             benchmarks: reset_guard against reverse_proxy, in one run
  help              this text

The files ./caddy and ./caddy-faultinject are made anew by each build.
EOF
}

die() {
	echo "xcaddy.sh: $*" >&2
	exit 1
}

command -v go >/dev/null 2>&1 || die "go was not found: install Go 1.26 or newer and put it into PATH"

# tool NAME [ARGS]: a tool at the version that tools/go.mod pins.
tool() {
	go tool -modfile=tools/go.mod "$@"
}

# make_caddy OUTPUT TAGS: the flags are xcaddy's own, with our tags beside its.
make_caddy() {
	XCADDY_GO_BUILD_FLAGS="-ldflags='-w -s' -trimpath -tags=nobadger,nomysql,nopgx$2" \
		tool xcaddy build "$caddy_version" --output "./$1" --with "$module@v0.0.0=."
}

build() {
	make_caddy caddy ""
	echo "made ./caddy: $(./caddy version)"
}

build_faultinject() {
	make_caddy caddy-faultinject ,faultinject
}

# step TEXT: CI's log is read from its headings.
step() {
	echo
	echo "== $*"
}

check_source() {
	step "gofmt"
	unformatted=$(gofmt -l .)
	[ -z "$unformatted" ] || die "not formatted, run gofmt -w on: $unformatted"
	step "go vet, also for other systems and with fault injection"
	go vet ./...
	go vet -tags faultinject .
	for os in darwin windows; do
		GOOS=$os go vet ./health ./failover ./diagnose
		GOOS=$os CGO_ENABLED=0 go build ./...
	done
	step "staticcheck"
	tool staticcheck ./...
}

# race prints the flag for the race detector, where it can be had. CI must have it.
race() {
	if command -v "$(go env CC)" >/dev/null 2>&1; then
		echo "-race"
	elif [ "${CI:-}" = true ]; then
		die "the race detector needs a C compiler: install gcc"
	else
		echo "xcaddy.sh: no C compiler: testing without the race detector" >&2
	fi
}

run_tests() {
	race_flag=$(race)
	step "go test"
	log=$(mktemp)
	status=0
	# RESET_GUARD_BINARIES: the smoke test runs what was built above.
	# caddymodule goes first and alone: its origins and clients keep time limits, which a
	# processor that is busy with simulations would make them miss.
	all=$(go list ./...)
	alone=$(echo "$all" | grep '/caddymodule$')
	others=$(echo "$all" | grep -v '/caddymodule$')
	for packages in "$alone" "$others"; do
		RESET_GUARD_BINARIES="$PWD" go test $race_flag -shuffle=on -timeout 25m -v $packages >>"$log" 2>&1 || status=$?
	done
	grep -E '^(ok|FAIL|---? FAIL|panic|\?)|^ +--- FAIL|_test\.go:[0-9]+:|DATA RACE' "$log" | grep -v 'no test files' || true
	[ "$status" -eq 0 ] || { tail -n 60 "$log"; rm -f "$log"; die "tests failed"; }
	# What the race detector does not allow to be tested is tested without it.
	skipped=$(grep -E -B1 -- '--- SKIP' "$log" | grep -v -e '^--$' | paste -d ' ' - - | grep -v 'the race detector makes pools forget' || true)
	rm -f "$log"
	step "go test, without the race detector"
	go test ./failover ./health ./diagnose ./ratelimit
	go test ./caddymodule -run 'DoesNotAllocate$'
	if [ -n "$skipped" ]; then
		echo "$skipped"
		[ "${CI:-}" != true ] || die "tests were skipped: let .ci/run provide what they need"
	fi
	step "fuzzing, briefly"
	fuzz ./caddymodule FuzzDirective 1500
	fuzz ./caddymodule FuzzMayCarryCookie 8000
	fuzz ./caddymodule FuzzLimitOptions 8000
	fuzz ./faultinject FuzzUnmarshalCaddyfile 8000
	fuzz ./diagnose FuzzNegotiate 15000
	fuzz ./failover FuzzParseContentRange 30000
	fuzz ./health FuzzBodyAfterHeader 10000
	fuzz ./health/pressure FuzzKernelText 80000
	fuzz ./health/pressure FuzzReport 60000
	fuzz ./health/pressure FuzzAgent 40000
	fuzz ./ratelimit FuzzStripCookie 80000
	fuzz ./ratelimit FuzzDecide 80000
	fuzz ./ratelimit FuzzParseKeyRing 80000
	fuzz ./ratelimit FuzzVerify 80000
	step "benchmarks run"
	go test -run '^$' -bench . -benchtime 10x ./... | grep -E '^(Benchmark|FAIL)' | head -n 60
}

# fuzz PACKAGE TARGET INPUTS
fuzz() {
	# A count, not a time: up to Go 1.26 a deadline can race the end of the run and
	# fail a target that found nothing (golang/go#75804).
	go test "$1" -run '^$' -fuzz "^$2\$" -fuzztime "$3x" -fuzzminimizetime 100x
}

run_all() {
	step "build"
	build
	build_faultinject
	check_source
	run_tests
	step "demo, in its short form"
	# Once more if it fails: on a busy machine a hold can run out of time.
	./caddy-faultinject reset-guard demo --quick || ./caddy-faultinject reset-guard demo --quick
	step "all passed"
}

verb=${1:-help}
[ $# -eq 0 ] || shift
case "$verb" in
build) build ;;
run)
	config=${1:-$PWD/Caddyfile.example}
	case "$config" in /*) ;; *) config=$called_from/$config ;; esac
	[ -r "$config" ] || die "cannot read the Caddyfile $config"
	build_faultinject
	exec ./caddy-faultinject run --adapter caddyfile --config "$config"
	;;
test) run_all ;;
demo)
	build_faultinject
	exec ./caddy-faultinject reset-guard demo "$@"
	;;
soak) RESET_GUARD_LONG=1 go test ./caddymodule -run '^TestSoak$' -count 1 -timeout 40m -v "$@" ;;
simulate)
	# One package at a time: each plays many cases at once.
	RESET_GUARD_LONG=1 go test -p 1 ./health ./ratelimit ./ratelimit/concurrency -run Sim -count 1 -timeout 60m -v "$@"
	;;
overload) RESET_GUARD_LONG=1 go test ./caddymodule -run '^(TestOverloadTable|TestNobodyRefusedBelowCapacity)$' -count 1 -timeout 40m -v "$@" ;;
unbroken)
	RESET_GUARD_LONG=1 go test ./caddymodule -run '^(TestDownloadsAreFinished|TestVerifiedDownloadsAreFinished|TestForgottenConnectionsAreLearned|TestConnectionsThatAreNeverReused|TestEarlyAnswersArrive)$' \
		-count 1 -timeout 40m -v "$@"
	RESET_GUARD_LONG=1 go test ./bench -run '^(TestFirstByteOfStreams|TestMemoryOfDownloads)$' -count 1 -timeout 20m -v "$@"
	;;
limits) RESET_GUARD_LONG=1 go test ./caddymodule -run '^(TestManyPeopleBehindOneAddress|TestAuto.*)$' -count 1 -timeout 20m -v "$@" ;;
bench) go test ./bench -run '^$' -bench . -benchtime 5s -count 5 "$@" ;;
help | -h | --help) usage ;;
*)
	usage >&2
	die "unknown verb '$verb'"
	;;
esac
