// SPDX-License-Identifier: Apache-2.0

// Mistakes in a Caddyfile: one error each, with file, line, what is wrong and
// what is allowed.

package caddymodule_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// inBlock puts lines into the directive's block, the first of them on line 3.
func inBlock(lines ...string) string {
	return "localhost {\n\treset_guard 127.0.0.1:1 127.0.0.1:2 {\n\t\t" + strings.Join(lines, "\n\t\t") + "\n\t}\n}\n"
}

func inFailover(line string) string { return inBlock("failover {", line, "}") }

func inLimit(lines ...string) string {
	return inBlock(append(append([]string{"rate_limit {"}, lines...), "}")...)
}

// inPressure puts lines into the global pressure block, the first on line 4.
func inPressure(lines ...string) string {
	return "{\n\treset_guard {\n\t\tpressure {\n\t\t\t" + strings.Join(lines, "\n\t\t\t") + "\n\t\t}\n\t}\n}\nlocalhost\n"
}

func TestBadConfiguration(t *testing.T) {
	const known = "unknown option '%s' of failover: allowed are attempts, within, replay, hold, resume, stall, idempotency_key, retry_status and budget"
	for name, tc := range map[string]struct {
		caddyfile string
		line      int
		want      string
	}{
		"rate_limit/unknown":        {inLimit("clients 1/s"), 4, "unknown option 'clients' of rate_limit: allowed are zone, client, network, identity, cookie, shared_ranges, headers and dry_run"},
		"rate_limit/word":           {inBlock("rate_limit on"), 3, "rate_limit takes 'auto', 'off' or a block, not 'on'"},
		"rate_limit/nothing":        {inBlock("rate_limit"), 3, "rate_limit takes 'auto', 'off' or a block with at least one option"},
		"rate_limit/twice":          {inBlock("rate_limit auto", "rate_limit off"), 4, "rate_limit already specified"},
		"rate_limit/off block":      {inBlock("rate_limit off {", "dry_run", "}"), 4, "rate_limit off takes no block: remove 'off' or the block"},
		"rate_limit/repeated":       {inLimit("client 1/s", "client 2/s"), 5, "client already specified"},
		"rate_limit/no value":       {inLimit("client"), 4, "client needs a value: a rate and a burst, such as 10/s burst 100"},
		"rate_limit/off in block":   {inLimit("off"), 4, "off stands on the line of rate_limit: rate_limit off"},
		"rate_limit/block":          {inLimit("client 1/s {", "x", "}"), 5, "client takes no block"},
		"rate_limit/auto network":   {inBlock("rate_limit auto {", "network {", "base 5/s", "}", "}"), 7, "network does not go with auto"},
		"client/no unit":            {inLimit("client 10"), 4, "client: '10' is not a rate above 0, such as 10/s, 600/m or 3600/h"},
		"client/unit":               {inLimit("client 10/d"), 4, "client: '10/d' is not a rate above 0"},
		"client/zero":               {inLimit("client 0/s"), 4, "client: '0/s' is not a rate above 0"},
		"client/too much":           {inLimit("client 1e9/s"), 4, "client: '1e9/s' is 1e+09 per second: allowed are 0.01/s (36/h) to 1000000/s"},
		"client/too little":         {inLimit("client 1/h"), 4, "client: '1/h' is 0.00028 per second: allowed are 0.01/s (36/h) to 1000000/s"},
		"client/burst":              {inLimit("client 1/s burst 0"), 4, "client: the burst '0' is not a number from 1 to 1000000"},
		"client/words":              {inLimit("client 1/s 5"), 4, "client takes a rate and a burst, such as 10/s burst 100, not '1/s 5'"},
		"network/unknown":           {inLimit("network {", "bases 1/s", "}"), 5, "unknown option 'bases' of network: allowed are base, per_client and unproven"},
		"network/empty":             {inLimit("network"), 4, "network takes a block with at least one option"},
		"network/value":             {inLimit("network 5/s"), 4, "network takes a block, not '5/s'"},
		"identity/text":             {inLimit("identity somebody"), 5, "identity: 'somebody' is not one placeholder, such as {http.auth.user.id}"},
		"identity/remote host":      {inLimit("identity {remote_host}"), 5, "identity: {http.request.remote.host} is the address, which counts in any case"},
		"cookie/off with lifetime":  {inLimit("cookie off 1h"), 4, "cookie off takes no lifetime, got '1h'"},
		"identity/address":          {inLimit("identity {client_ip}"), 5, "identity: {http.vars.client_ip} is the address, which counts in any case"},
		"cookie/lifetime":           {inLimit("cookie rg 1m"), 4, "cookie: the lifetime '1m' is not a duration from 10m0s to 7d"},
		"cookie/name":               {inLimit("cookie a=b 1d"), 5, "cookie: 'a=b' is no name"},
		"cookie/prefix":             {inLimit("cookie __Secure-rg"), 5, "may begin with __Host- or without a prefix"},
		"shared_ranges/word":        {inLimit("shared_ranges home"), 5, "shared_ranges: 'home' is not a network, such as 100.64.0.0/10"},
		"headers/word":              {inLimit("headers yes"), 5, "headers: 'yes' is none: allowed are on, legacy and off"},
		"dry_run/value":             {inLimit("dry_run on"), 4, "dry_run takes no value, not 'on'"},
		"limit zone/placeholder":    {inLimit("zone {host}"), 4, "zone takes a fixed name"},
		"reset_guard_limit/word":    {"localhost\nreset_guard_limit on\n", 2, "reset_guard_limit takes 'auto', 'off' or a block, not 'on'"},
		"reset_guard_limit/unknown": {"localhost\nreset_guard_limit {\nx\n}\n", 3, "unknown option 'x' of reset_guard_limit"},
		"failover/unknown":          {inFailover("atempts 3"), 4, fmt.Sprintf(known, "atempts")},
		"failover/later option":     {inFailover("mirror on"), 4, fmt.Sprintf(known, "mirror")},
		"failover/repeated":         {inBlock("failover {", "attempts 3", "attempts 4", "}"), 5, "attempts already specified"},
		"failover/twice":            {inBlock("failover off", "failover off"), 4, "failover already specified"},
		"failover/word":             {inBlock("failover on"), 3, "failover takes 'off' or a block, not 'on'"},
		"failover/off and more":     {inBlock("failover off now"), 3, "failover takes 'off' or a block, not 'now'"},
		"failover/off block":        {inBlock("failover off {", "attempts 3", "}"), 4, "failover off takes no block: remove 'off' or the block"},
		"failover/nothing":          {inBlock("failover"), 3, "failover takes 'off' or a block"},
		"failover/no value":         {inFailover("attempts"), 4, "attempts needs a value: a number, such as 4"},
		"failover/no sizes":         {inFailover("replay"), 4, "replay needs a value: a size in memory and one in a file, such as 1MiB 64MiB, or 'off'"},
		"failover/no size":          {inFailover("hold"), 4, "hold needs a value: a size and a duration, such as 64KiB 25ms, or 'off'"},
		"failover/no statuses":      {inFailover("retry_status"), 4, "retry_status needs a value: statuses, such as 502 503 504, or 'off'"},
		"failover/bare unknown":     {inFailover("mirror"), 4, fmt.Sprintf(known, "mirror")},
		"failover/block":            {inBlock("failover {", "attempts 3 {", "x", "}", "}"), 5, "attempts takes no block"},
		"attempts/word":             {inFailover("attempts many"), 4, "attempts: 'many' is not a number from 1 to 20"},
		"attempts/none":             {inFailover("attempts 0"), 4, "attempts: '0' is not a number from 1 to 20"},
		"attempts/too many":         {inFailover("attempts 21"), 4, "attempts: '21' is not a number from 1 to 20"},
		"attempts/two":              {inFailover("attempts 2 3"), 4, "attempts takes one number, got 2 values"},
		"within/word":               {inFailover("within soon"), 4, "within: 'soon' is not a duration above 0s and up to 10m0s"},
		"within/zero":               {inFailover("within 0s"), 4, "within: '0s' is not a duration above 0s and up to 10m0s"},
		"within/too long":           {inFailover("within 1h"), 4, "within: '1h' is not a duration above 0s and up to 10m0s"},
		"within/two":                {inFailover("within 1s 2s"), 4, "within takes one duration, got 2 values"},
		"replay/word":               {inFailover("replay much"), 4, "replay: 'much' is not a size from 0 to 1.0 GiB, such as 64KiB"},
		"replay/too much":           {inFailover("replay 2GiB"), 4, "replay: '2GiB' is not a size from 0 to 1.0 GiB, such as 64KiB"},
		"replay/file":               {inFailover("replay 1MiB 2TiB"), 4, "replay: '2TiB' is not a size from 0 to 1.0 TiB, such as 64KiB"},
		"replay/three":              {inFailover("replay 1MiB 2MiB 3MiB"), 4, "replay takes a size in memory and a size in a file, got 3 values"},
		"hold/size":                 {inFailover("hold x"), 4, "hold: 'x' is not a size from 0 to 16 MiB, such as 64KiB"},
		"hold/too much":             {inFailover("hold 17MiB"), 4, "hold: '17MiB' is not a size from 0 to 16 MiB, such as 64KiB"},
		"hold/time":                 {inFailover("hold 64KiB x"), 4, "hold: 'x' is not a duration above 0s and up to 10s"},
		"hold/three":                {inFailover("hold 64KiB 1ms 2ms"), 4, "hold takes a size and a duration, got 3 values"},
		"resume/none":               {inFailover("resume"), 4, "resume needs a value: on, verify or off"},
		"resume/word":               {inFailover("resume maybe"), 4, "resume takes 'on', 'verify' or 'off', not 'maybe'"},
		"resume/two":                {inFailover("resume on verify"), 4, "resume takes 'on', 'verify' or 'off', not 'on verify'"},
		"resume/twice":              {inBlock("failover {", "resume on", "resume off", "}"), 5, "resume already specified"},
		"stall/none":                {inFailover("stall"), 4, "stall needs a value: a duration, such as 60s, or 'off'"},
		"stall/word":                {inFailover("stall long"), 4, "stall: 'long' is not a duration above 0s and up to 24h0m0s"},
		"stall/zero":                {inFailover("stall 0s"), 4, "stall: '0s' is not a duration above 0s and up to 24h0m0s"},
		"stall/too long":            {inFailover("stall 2d"), 4, "stall: '2d' is not a duration above 0s and up to 24h0m0s"},
		"stall/two":                 {inFailover("stall 1s 2s"), 4, "stall takes one duration, got 2 values"},
		"idempotency_key/name":      {inFailover(`idempotency_key "a b"`), 4, "idempotency_key: 'a b' is not the name of a header field; allowed are names, or 'off' alone"},
		"idempotency_key/off":       {inFailover("idempotency_key off X-Key"), 4, "idempotency_key: 'off' is not the name of a header field; allowed are names, or 'off' alone"},
		"idempotency_key/twice":     {inFailover("idempotency_key X-Key x-key"), 4, "idempotency_key: X-Key is named twice"},
		"retry_status/word":         {inFailover("retry_status 5xx"), 4, "retry_status: '5xx' is not a status from 400 to 599"},
		"retry_status/range":        {inFailover("retry_status 302"), 4, "retry_status: '302' is not a status from 400 to 599"},
		"retry_status/twice":        {inFailover("retry_status 502 502"), 4, "retry_status: 502 is named twice"},
		"error_page/word":           {inBlock("error_page maybe"), 3, "error_page takes 'on' or 'off'"},
		"error_page/none":           {inBlock("error_page"), 3, "error_page takes 'on' or 'off'"},
		"error_page/twice":          {inBlock("error_page on", "error_page off"), 4, "error_page already specified"},
		"error_page/block":          {inBlock("error_page on {", "x", "}"), 4, "error_page takes no block"},
		"unknown subdirective":      {inBlock("mirror on"), 3, "unrecognized subdirective mirror"},
		"unknown: allowed":          {inBlock("mirror on"), 3, "reset_guard takes failover, eject, overload, rate_limit, error_page, zone and every option of reverse_proxy"},
		"attempts and retries": {
			inBlock("lb_retries 2", "failover {", "attempts 3", "}"), 2,
			"attempts and lb_retries mean the same (lb_retries 2 is attempts 3): remove one of them",
		},
		"within and try_duration": {
			inBlock("lb_try_duration 2s", "failover {", "within 3s", "}"), 2,
			"within and lb_try_duration mean the same: remove one of them",
		},
		"hold and flush": {
			inBlock("flush_interval -1", "failover {", "hold 1KiB", "}"), 2,
			"hold and flush_interval -1 contradict each other: a response that is flushed at once cannot be held; remove one of them",
		},
		"transport in itself": {
			inBlock("transport reset_guard"), 2,
			"transport reset_guard: the directive reset_guard wraps the transport by itself; name the one to wrap, such as http, or use the directive reverse_proxy",
		},
		"policy in itself": {
			inBlock("lb_policy reset_guard"), 2,
			"lb_policy reset_guard: the directive reset_guard wraps the policy by itself; name the one to wrap, such as round_robin, or use the directive reverse_proxy",
		},
		"plain/transport option": {
			"localhost {\n\treverse_proxy 127.0.0.1:1 {\n\t\ttransport reset_guard {\n\t\t\tfailovr off\n\t\t}\n\t}\n}", 4,
			"unknown option 'failovr' of transport reset_guard: allowed are transport and failover",
		},
		"plain/transport wraps itself": {
			"localhost {\n\treverse_proxy 127.0.0.1:1 {\n\t\ttransport reset_guard {\n\t\t\ttransport reset_guard\n\t\t}\n\t}\n}", 4,
			"transport reset_guard cannot wrap itself: name the transport to wrap, such as http",
		},
		"plain/policy wraps itself": {
			"localhost {\n\treverse_proxy 127.0.0.1:1 {\n\t\tlb_policy reset_guard reset_guard\n\t}\n}", 3,
			"lb_policy reset_guard cannot wrap itself: name the policy that is to choose, such as round_robin",
		},
		"plain/transport value": {
			"localhost {\n\treverse_proxy 127.0.0.1:1 {\n\t\ttransport reset_guard http\n\t}\n}", 3,
			"transport reset_guard takes a block, not 'http': name the transport to wrap in it",
		},
		"plain/transport without name": {
			"localhost {\n\treverse_proxy 127.0.0.1:1 {\n\t\ttransport reset_guard {\n\t\t\ttransport\n\t\t}\n\t}\n}", 4,
			"transport needs the name of the transport to wrap, such as http",
		},
		"plain/transport twice": {
			"localhost {\n\treverse_proxy 127.0.0.1:1 {\n\t\ttransport reset_guard {\n\t\t\tfailover off\n\t\t\tfailover off\n\t\t}\n\t}\n}", 5,
			"failover already specified",
		},
		"plain/matcher value": {
			"localhost {\n\treverse_proxy 127.0.0.1:1 {\n\t\tlb_retry_match {\n\t\t\treset_guard on\n\t\t}\n\t}\n}", 4,
			"the reset_guard matcher takes no options, not 'on'",
		},
		"plain/matcher option": {
			"localhost {\n\treverse_proxy 127.0.0.1:1 {\n\t\tlb_retry_match {\n\t\t\treset_guard {\n\t\t\t\tx\n\t\t\t}\n\t\t}\n\t}\n}", 5,
			"the reset_guard matcher takes no options",
		},
		"global/option": {
			"{\n\treset_guard {\n\t\tincidents 5\n\t}\n}\nlocalhost\n", 3,
			"unknown option 'incidents' of the global option reset_guard: allowed is pressure",
		},
		"global/value": {"{\n\treset_guard on\n}\nlocalhost\n", 2, "the global option reset_guard takes no value, not 'on'"},
		"snippets/repeated": {
			"(option) {\n\t{args[0]} {args[1]}\n}\nlocalhost {\n\treset_guard 127.0.0.1:1 {\n\t\timport option error_page on\n\t\timport option error_page off\n\t}\n}", 2,
			"error_page already specified",
		},
		"budget/share":            {inFailover("budget 20"), 4, "budget: '20' is not a share above 0% and up to 100%, such as 50%: write 20%"},
		"budget/count":            {inFailover("budget 20% -1"), 4, "budget: '-1' is not a number from 0 to 1000000"},
		"budget/three":            {inFailover("budget 20% 3 4"), 4, "budget takes a share and a count, got 3 values"},
		"budget/none":             {inFailover("budget"), 4, "budget needs a value: a share of the requests and a count, such as 20% 3, or 'off'"},
		"eject/nothing":           {inBlock("eject"), 3, "eject takes 'off' or a block"},
		"eject/word":              {inBlock("eject never"), 3, "eject takes 'off' or a block, not 'never'"},
		"eject/off block":         {inBlock("eject off {", "base 1s", "}"), 4, "eject off takes no block: remove 'off' or the block"},
		"eject/off inside":        {inBlock("eject {", "off", "}"), 4, "off stands on the line of eject, without a block: eject off"},
		"eject/twice":             {inBlock("eject off", "eject off"), 4, "eject already specified"},
		"eject/unknown":           {inBlock("eject {", "min 1s", "}"), 4, "unknown option 'min' of eject: allowed are base, max, max_share and slow_start"},
		"eject/same option":       {inBlock("eject {", "base 1s", "base 2s", "}"), 5, "base already specified"},
		"eject/base":              {inBlock("eject {", "base soon", "}"), 4, "base: 'soon' is not a duration above 0s and up to 24h0m0s"},
		"eject/base no":           {inBlock("eject {", "base", "}"), 4, "base needs a value: a duration, such as 5s"},
		"eject/base > max":        {inBlock("eject {", "base 1m", "max 5s", "}"), 5, "base is 1m0s, which is more than max, 5s"},
		"eject/max":               {inBlock("eject {", "max 2s", "slow_start off", "}"), 4, "base is 5s by default, which is more than max, 2s"},
		"eject/share":             {inBlock("eject {", "max_share 0.5", "}"), 4, "max_share: '0.5' is not a share above 0% and up to 100%, such as 50%: write 50%"},
		"eject/outside":           {inBlock("max_share 50%"), 3, "max_share belongs into the block of eject: eject { max_share ... }"},
		"budget/outside":          {inBlock("budget 20%"), 3, "budget belongs into the block of failover: failover { budget ... }"},
		"zone/placeholder":        {inBlock("zone {host}"), 3, "zone takes a fixed name, not '{http.request.host}'"},
		"eject/share 0":           {inBlock("eject {", "max_share 0%", "}"), 4, "max_share: '0%' is not a share above 0% and up to 100%, such as 50%"},
		"eject/slow_start":        {inBlock("eject {", "slow_start 11m", "}"), 4, "slow_start: '11m' is not a duration above 0s and up to 10m0s"},
		"eject/block":             {inBlock("eject {", "base 1s {", "x", "}", "}"), 5, "base takes no block"},
		"zone/nothing":            {inBlock("zone"), 3, "zone takes one name of 1 to 64 bytes"},
		"zone/two":                {inBlock("zone a b"), 3, "zone takes one name of 1 to 64 bytes"},
		"zone/twice":              {inBlock("zone a", "zone b"), 4, "zone already specified"},
		"zone/block":              {inBlock("zone a {", "x", "}"), 4, "zone takes no block"},
		"global/twice":            {"{\n\treset_guard\n\treset_guard\n}\nlocalhost\n", 3, "reset_guard already specified"},
		"overload/nothing":        {inBlock("overload"), 3, "overload takes 'off' or a block with at least one option"},
		"overload/word":           {inBlock("overload on"), 3, "overload takes 'off' or a block, not 'on'"},
		"overload/off block":      {inBlock("overload off {", "mode auto", "}"), 4, "overload off takes no block: remove 'off' or the block"},
		"overload/off inside":     {inBlock("overload {", "off", "}"), 4, "off stands on the line of overload, without a block: overload off"},
		"overload/twice":          {inBlock("overload off", "overload off"), 4, "overload already specified"},
		"overload/unknown":        {inBlock("overload {", "limit 5", "}"), 4, "unknown option 'limit' of overload: allowed are mode, queue, priority and agent"},
		"agent/nothing":           {inBlock("overload {", "agent", "}"), 4, "agent takes a port and perhaps an interval, such as agent 9001 2s; got 0 values"},
		"agent/too much":          {inBlock("overload {", "agent 1 2s 3", "}"), 4, "got 3 values"},
		"agent/twice":             {inBlock("overload {", "agent 1", "agent 2", "}"), 5, "agent already specified"},
		"agent/block":             {inBlock("overload {", "agent 1 {", "x", "}", "}"), 5, "agent takes no block"},
		"agent/port":              {inBlock("overload {", "agent 10.0.0.1:9001", "}"), 4, "agent: '10.0.0.1:9001' is not a port from 1 to 65535"},
		"agent/port 0":            {inBlock("overload {", "agent 0", "}"), 4, "agent: '0' is not a port from 1 to 65535"},
		"agent/port too high":     {inBlock("overload {", "agent 65536", "}"), 4, "agent: '65536' is not a port"},
		"agent/interval":          {inBlock("overload {", "agent 9001 often", "}"), 4, "agent: 'often' is not an interval from 500ms to 5m0s, such as 2s"},
		"agent/too often":         {inBlock("overload {", "agent 9001 499ms", "}"), 4, "agent: '499ms' is not an interval from 500ms to 5m0s"},
		"agent/too seldom":        {inBlock("overload {", "agent 9001 301s", "}"), 4, "agent: '301s' is not an interval from 500ms to 5m0s"},
		"overload/same option":    {inBlock("overload {", "mode auto", "mode auto", "}"), 5, "mode already specified"},
		"overload/block":          {inBlock("overload {", "mode auto {", "x", "}", "}"), 5, "mode takes no block"},
		"overload/mode":           {inBlock("overload {", "mode on", "}"), 4, "mode: 'on' is none: allowed are observe, auto and enforce"},
		"overload/no mode":        {inBlock("overload {", "mode", "}"), 4, "mode needs a value: observe, auto or enforce"},
		"overload/two modes":      {inBlock("overload {", "mode auto enforce", "}"), 4, "mode takes one value, got 2"},
		"overload/no queue":       {inBlock("overload {", "queue", "}"), 4, "queue needs a value: a duration, such as 100ms, or 'off'"},
		"overload/queue word":     {inBlock("overload {", "queue long", "}"), 4, "queue: 'long' is not a duration above 0s and up to 100ms"},
		"overload/queue too long": {inBlock("overload {", "queue 1s", "}"), 4, "queue: '1s' is not a duration above 0s and up to 100ms"},
		"priority/nothing":        {inBlock("overload {", "priority", "}"), 4, "priority needs a class and a matcher"},
		"priority/class":          {inBlock("overload {", "priority high /a", "}"), 4, "priority: 'high' is no class: allowed are critical, default, sheddable and background"},
		"priority/no matcher":     {inBlock("overload {", "priority critical", "}"), 4, "priority critical needs a matcher, such as @checkout or /checkout/*"},
		"priority/unknown":        {inBlock("overload {", "priority critical @no", "}"), 4, "priority critical: unrecognized matcher name: @no"},
		"priority/word":           {inBlock("overload {", "priority critical GET", "}"), 4, "priority critical: 'GET' is no matcher: name one, such as @checkout, or a path, such as /checkout/*"},
		"priority/two":            {inBlock("overload {", "priority critical /a /b", "}"), 4, "priority critical takes one matcher, not also '/b'"},
		"pressure/nothing":        {inPressure(), 5, "pressure takes a block with at least one option"},
		"pressure/value":          {"{\n\treset_guard {\n\t\tpressure off\n\t}\n}\nlocalhost\n", 3, "pressure takes a block, not 'off'"},
		"pressure/unknown":        {inPressure("disk 1% 2%"), 4, "unknown option 'disk' of pressure: allowed are memory, cpu and files"},
		"pressure/same option":    {inPressure("cpu 1% 2%", "cpu 1% 2%"), 5, "cpu already specified"},
		"pressure/one":            {inPressure("cpu 40%"), 4, "cpu takes two shares, where pressure begins and where it is full, such as 85% 95%; got 1 values"},
		"pressure/share":          {inPressure("cpu 0.4 0.8"), 4, "cpu: '0.4' is not a share above 0% and up to 100%, such as 85%"},
		"pressure/range":          {inPressure("cpu 40% 101%"), 4, "cpu: '101%' is not a share above 0% and up to 100%, such as 85%"},
		"pressure/order":          {inPressure("files 90% 80%"), 4, "files: 90% is not below 80%"},
		"pressure/twice":          {"{\n\treset_guard {\n\t\tpressure {\n\t\t\tcpu 1% 2%\n\t\t}\n\t\tpressure {\n\t\t\tcpu 1% 2%\n\t\t}\n\t}\n}\nlocalhost\n", 6, "pressure already specified"},
		"pressure/block":          {inPressure("cpu 1% 2% {", "x", "}"), 5, "cpu takes no block"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryAdapt(tc.caddyfile)
			if err == nil {
				t.Fatalf("accepted:\n%s", tc.caddyfile)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, want it to say %q", err, tc.want)
			}
			if at := fmt.Sprintf("Caddyfile:%d", tc.line); !strings.Contains(err.Error(), at) {
				t.Errorf("got %q, want it to name %s", err, at)
			}
		})
	}
}

// fuzzPlaces are where the fuzzer's text is put: as a directive, in its block, in
// the guard's own, in the transport's.
var fuzzPlaces = []string{
	"%s",
	"reset_guard a:1 {\n%s\n}",
	"reset_guard a:1 {\n\tfailover {\n%s\n}\n}",
	"reverse_proxy a:1 {\n\ttransport reset_guard {\n%s\n}\n}",
}

// FuzzDirective: whatever is written, the parser neither panics nor hangs, and
// what it accepts is a configuration that Caddy can read.
func FuzzDirective(f *testing.F) {
	for _, seed := range []string{
		"reset_guard 127.0.0.1:1",
		"reset_guard 127.0.0.1:1 {\n\tfailover off\n\terror_page off\n}",
		"reset_guard /x* h2c://127.0.0.1:1 {\n\tfailover {\n\t\tattempts 3\n\t\thold 1KiB 1ms\n\t\treplay 1MiB off\n\t}\n}",
		"reset_guard {\n\tto a:1\n\theader_up X {\n\tfailover {\n\t}\n\thandle_response {\n\t\trespond \"{\" 200\n\t}\n}",
		"reverse_proxy a:1 {\n\tlb_policy reset_guard header X {\n\t\tfallback first\n\t}\n\ttransport reset_guard {\n\t\ttransport http {\n\t\t\ttls\n\t\t}\n\t\tfailover {\n\t\t\treplay off\n\t\t\thold off\n\t\t}\n\t}\n}",
		"reverse_proxy https://a {\n\tlb_retry_match {\n\t\treset_guard\n\t}\n\ttransport reset_guard {\n\t\tfailover off\n\t}\n}",
		"reset_guard a:1 {\n\tlb_retries -2\n\tlb_try_duration -1s\n\tflush_interval -1\n}",
		"reset_guard a:1 {\n\ttransport http {\n\t\ttls\n\t}\n\tfailover {\n\t\tretry_status 502 off\n\t\tidempotency_key X\n\t}\n}",
	} {
		f.Add(seed)
	}
	for _, seed := range []string{
		"attempts 3\nwithin 1s\nreplay 1KiB off\nhold 1KiB 1ms",
		"resume verify\nstall 5s", "resume off\nstall off",
		"failover {\n\tretry_status 502 503\n}\nerror_page off\nheader_up X {",
		"transport http {\n\ttls\n}\nfailover off",
		"}\n{\n}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if strings.Contains(in, "import") {
			return // imports read files
		}
		for _, place := range fuzzPlaces {
			fuzzPlace(t, fmt.Sprintf(place, in))
		}
	})
}

func fuzzPlace(t *testing.T, directive string) {
	site := []byte(":8080 {\n" + directive + "\n}\n")
	if _, err := caddyfile.Tokenize(site, "Fuzzfile"); err != nil {
		return
	}
	blocks, err := caddyfile.Parse("Fuzzfile", site)
	if err != nil {
		return
	}
	if config, _, err := (httpcaddyfile.ServerType{}).Setup(blocks, map[string]any{}); err == nil {
		checkRoundTrip(t, config)
	}
}
