{{/* The first part of the names of all objects. */}}
{{- define "handover.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What every object is labeled with. */}}
{{- define "handover.labels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: handover
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with omit .Values.commonLabels "helm.sh/chart" "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/part-of" "app.kubernetes.io/managed-by" "app.kubernetes.io/component" }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The annotations of an object, those that all have included: (list $ annotations). */}}
{{- define "handover.annotations" -}}
{{- with merge (dict) (index . 1) (index . 0).Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The metadata of an object of one component: (list $ "operator" name annotations). */}}
{{- define "handover.clusterMetadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 2 }}
labels:
  {{- include "handover.componentLabels" (list $root (index . 1)) | nindent 2 }}
{{- include "handover.annotations" (list $root (index . 3)) }}
{{- end -}}

{{/* The same in the release's namespace. */}}
{{- define "handover.metadata" -}}
namespace: {{ (index . 0).Release.Namespace }}
{{ include "handover.clusterMetadata" . }}
{{- end -}}

{{/* The objects of one component: (list $ "operator"). */}}
{{- define "handover.componentLabels" -}}
{{- $root := index . 0 -}}
{{ include "handover.labels" $root }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The pods of one component; never to be changed, since selectors cannot be. */}}
{{- define "handover.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The labels of a component's pods, the user's own included. */}}
{{- define "handover.podLabels" -}}
{{- $values := index (index . 0).Values (index . 1) -}}
{{- toYaml (merge (include "handover.componentLabels" . | fromYaml) $values.podLabels) -}}
{{- end -}}

{{/* The image of one component. */}}
{{- define "handover.image" -}}
{{- $root := index . 0 -}}
{{- $image := index (index $root.Values (index . 1)) "image" -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What both components' pods are placed and pulled by. */}}
{{- define "handover.placement" -}}
{{- $values := index (index . 0).Values (index . 1) -}}
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The variables that both components have. */}}
{{- define "handover.env" -}}
{{- $values := index (index . 0).Values (index . 1) -}}
- name: HANDOVER_PORT
  value: {{ $values.port | quote }}
- name: HANDOVER_LOG_LEVEL
  value: {{ $values.logLevel }}
- name: HANDOVER_LOG_FORMAT
  value: {{ $values.logFormat }}
{{- range $name, $value := $values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* The agent's security context; the capability to go before others unless that is not wanted. */}}
{{- define "handover.agentSecurity" -}}
{{- $context := deepCopy .securityContext -}}
{{- if eq (default "high" .processorPriority) "high" -}}
{{- $capabilities := $context.capabilities | default dict -}}
{{- $added := append ($capabilities.add | default list) "SYS_NICE" | uniq -}}
{{- $context = set $context "capabilities" (set $capabilities "add" $added) -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{/* Alive once it serves; ready once it knows all that it must know before it acts. */}}
{{- define "handover.probes" -}}
startupProbe:
  {{- include "handover.get" (list "/healthz" .) | nindent 2 }}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  {{- include "handover.get" (list "/healthz" .) | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  {{- include "handover.get" (list "/readyz" .) | nindent 2 }}
  periodSeconds: 2
  timeoutSeconds: 2
{{- end -}}

{{- define "handover.get" -}}
httpGet:
  {{- with index . 1 }}
  host: {{ . | quote }}
  {{- end }}
  path: {{ index . 0 }}
  port: http
{{- end -}}

{{/* The metadata of an object of no one component, with labels of its own: (list $ name labels annotations). */}}
{{- define "handover.plainMetadata" -}}
{{- $root := index . 0 -}}
namespace: {{ $root.Release.Namespace }}
name: {{ index . 1 }}
labels:
  {{- include "handover.labels" $root | nindent 2 }}
  {{- with index . 2 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- include "handover.annotations" (list $root (index . 3)) }}
{{- end -}}

{{/* The pods of both components, and no others of the release. */}}
{{- define "handover.everyPod" -}}
matchLabels:
  app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
  app.kubernetes.io/instance: {{ .Release.Name }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [operator, nodeagent]
{{- end -}}

{{/* The version as a number that grows, by which a newer kind is told from an older one. */}}
{{- define "handover.schema" -}}
{{- $version := semver .Chart.Version -}}
{{- add (mul $version.Major 1000000) (mul $version.Minor 1000) $version.Patch -}}
{{- end -}}
