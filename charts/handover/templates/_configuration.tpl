{{/* What values.schema.json cannot say of the configuration: the sentences are those of the CRD. */}}
{{- define "handover.checkConfiguration" -}}
{{- $it := .Values.configuration -}}
{{- range $family := list "ipv4" "ipv6" -}}
{{- $elevated := printf "%sElevatedRoutePriority" $family -}}
{{- $normal := printf "%sNormalRoutePriority" $family -}}
{{- if ge (get $it $elevated | default 512 | int64) (get $it $normal | default 1024 | int64) -}}
{{- include "handover.refuse" (printf "spec.%s (default 512) must be lower than spec.%s (default 1024)" $elevated $normal) -}}
{{- end -}}
{{- $step := sub (get $it $normal | default 1024 | int64) (get $it $elevated | default 512 | int64) -}}
{{- if and (eq (include "handover.advertise" $) "agents") (lt $step 2) -}}
{{- include "handover.refuse" (printf "spec.%s (default 1024) must be 2 above spec.%s (default 512) with advertise agents, the default" $normal $elevated) -}}
{{- end -}}
{{- end -}}
{{- $ahead := sub ($it.redirectPort | default 7472) ($it.peerPort | default 7473) -}}
{{- if or (eq $ahead 0) (eq $ahead 1) -}}
{{- include "handover.refuse" "spec.redirectPort (default 7472) must be neither spec.peerPort (default 7473) nor the port after it" -}}
{{- end -}}
{{- with $it.liveMigrationRouteConvergenceTime -}}
{{- $microseconds := include "handover.microseconds" . | int64 -}}
{{- if or (lt $microseconds 1) (gt $microseconds 3600000000) -}}
{{- include "handover.refuse" "spec.liveMigrationRouteConvergenceTime must be a duration such as 30s, above 0 and at most 1h" -}}
{{- end -}}
{{- end -}}
{{- with $it.probeInterval -}}
{{- $microseconds := include "handover.microseconds" . | int64 -}}
{{- if and (gt $microseconds 0) (lt $microseconds 20000) -}}
{{- include "handover.refuse" "spec.probeInterval must be 0 (off) or a duration such as 200ms, at least 20ms" -}}
{{- end -}}
{{- end -}}
{{- range $network := $it.allowedCIDRs -}}
{{- $prefix := last (splitList "/" $network) | int -}}
{{- $bits := include (ternary "handover.nibbles6" "handover.nibbles4" (contains ":" $network)) (first (splitList "/" $network)) -}}
{{- $whole := div $prefix 4 | int -}}
{{- if lt $whole (len $bits) -}}
{{- $after := substr (add $whole 1 | int) -1 (printf "%s0" $bits) -}}
{{- /* Of the digit in which the prefix ends only the first bits may be set. */ -}}
{{- $cut := substr $whole (add $whole 1 | int) $bits -}}
{{- $allowed := index (list "0" "08" "048c" "02468ace") (mod $prefix 4 | int) -}}
{{- if or (not (contains $cut $allowed)) (regexMatch "[^0]" $after) -}}
{{- include "handover.refuse" (printf "spec.allowedCIDRs must hold networks such as 10.0.0.0/8 or fd00::/8, with no bits set after the prefix: %s has some" $network) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Settings with their built-in defaults, which a test compares with the agents' own. */}}
{{- define "handover.advertise" -}}{{ .Values.configuration.advertise | default "agents" }}{{- end -}}
{{- define "handover.sourceRedirect" -}}{{ .Values.configuration.sourceRedirect | default "auto" }}{{- end -}}

{{/* Fails. `helm lint` only remarks on `fail`; that there is no template of that name it minds. */}}
{{- define "handover.refuse" -}}
{{- $sentence := printf "configuration: %s" . -}}
{{- fail $sentence -}}
{{- include $sentence . -}}
{{- end -}}

{{/* The sum of the parts of a duration such as 1m30s. */}}
{{- define "handover.microseconds" -}}
{{- $sizes := dict "h" 3600000000 "m" 60000000 "s" 1000000 "ms" 1000 "us" 1 "µs" 1 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9.]+[a-zµ]+" . -1 -}}
{{- $sum = add $sum (mulf (regexFind "^[0-9.]+" . | float64) (get $sizes (regexFind "[a-zµ]+$" .)) | int64) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* The eight hexadecimal digits of an IPv4 address. */}}
{{- define "handover.nibbles4" -}}
{{- range splitList "." . }}{{ printf "%02x" (int .) }}{{ end -}}
{{- end -}}

{{/* The 32 hexadecimal digits of an IPv6 address. */}}
{{- define "handover.nibbles6" -}}
{{- $halves := splitList "::" . -}}
{{- $head := compact (splitList ":" (first $halves)) -}}
{{- $tail := compact (splitList ":" (last $halves)) -}}
{{- if lt (len $halves) 2 }}{{ $tail = list }}{{ end -}}
{{- range $head }}{{ printf "%4s" . | replace " " "0" | lower }}{{ end -}}
{{- repeat (sub 32 (mul 4 (add (len $head) (len $tail))) | int) "0" -}}
{{- range $tail }}{{ printf "%4s" . | replace " " "0" | lower }}{{ end -}}
{{- end -}}
