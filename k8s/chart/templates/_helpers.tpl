{{- define "doorward.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "doorward.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if eq .Values.mode "injection" }}doorward
{{- else if contains (include "doorward.name" .) .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name (include "doorward.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "doorward.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "doorward.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "doorward.selector" -}}
app.kubernetes.io/name: {{ include "doorward.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.mode }}
{{- end }}

{{- /* Pods with Doorward in them, whoever made them. */ -}}
{{- define "doorward.pods" -}}
{{- if has .Values.mode (list "gateway" "node") }}{{ include "doorward.selector" . }}{{ else }}doorward: enabled{{ end }}
{{- end }}

{{- define "doorward.image" -}}
{{- $image := .image -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .default }}{{ end }}
{{- end }}

{{- define "doorward.config" -}}
{{- $check := ternary "0.0.0.0:9191" "unix:/run/doorward/check.sock" (eq .Values.mode "node") -}}
{{- $listen := dict "check" $check "http" "0.0.0.0:9192" "admin" "0.0.0.0:9193" -}}
{{- $redis := dict "url" .Values.redis.url -}}
{{- if .Values.redis.existingSecret -}}
{{- $_ := set $redis "password_file" "/etc/doorward-redis/password" -}}
{{- if .Values.redis.username }}{{ $_ := set $redis "username" .Values.redis.username }}{{ end -}}
{{- end -}}
{{- $given := dict "listen" $listen -}}
{{- if ne (dig "revocation" "store" "redis" .Values.config) "embedded" -}}
{{- $_ := set $given "revocation" (dict "store" "redis" "redis" $redis) -}}
{{- end -}}
{{- toYaml (mustMergeOverwrite $given (deepCopy .Values.config)) }}
{{- end }}

{{- /* envoy.yaml: the file of the overlays, with the routes and origins of the values. */ -}}
{{- define "doorward.envoy" -}}
{{- if .Values.envoy.config }}{{ .Values.envoy.config }}{{ else -}}
{{- $file := ternary "files/gateway.yaml" "files/sidecar.yaml" (eq .Values.mode "gateway") -}}
{{- $envoy := .Files.Get $file | fromYaml -}}
{{- $listener := first $envoy.static_resources.listeners -}}
{{- $manager := (first (first $listener.filter_chains).filters).typed_config -}}
{{- $host := first $manager.route_config.virtual_hosts -}}
{{- $cors := index $host.typed_per_filter_config "envoy.filters.http.cors" -}}
{{- $origins := list -}}
{{- range .Values.envoy.corsOrigins }}{{ $origins = append $origins (dict "exact" .) }}{{ end -}}
{{- $_ := set $cors "allow_origin_string_match" $origins -}}
{{- if eq .Values.mode "gateway" -}}
{{- $routes := list -}}
{{- $clusters := list -}}
{{- range $cluster := $envoy.static_resources.clusters -}}
{{- if has $cluster.name (list "admin" "doorward" "doorward_streams") }}{{ $clusters = append $clusters $cluster }}{{ end -}}
{{- end -}}
{{- range .Values.gateway.routes -}}
{{- $name := printf "service:%s:%v" .service .port -}}
{{- $match := ternary (dict "prefix" "/") (dict "path_separated_prefix" (trimSuffix "/" .prefix)) (eq .prefix "/") -}}
{{- $routes = append $routes (dict "match" $match "route" (dict "cluster" $name)) -}}
{{- $address := dict "socket_address" (dict "address" .service "port_value" .port) -}}
{{- $endpoints := list (dict "lb_endpoints" (list (dict "endpoint" (dict "address" $address)))) -}}
{{- $cluster := dict "name" $name "type" "STRICT_DNS" "connect_timeout" "1s" "load_assignment" (dict "cluster_name" $name "endpoints" $endpoints) -}}
{{- if not (has $cluster $clusters) }}{{ $clusters = append $clusters $cluster }}{{ end -}}
{{- end -}}
{{- $_ := set $host "routes" $routes -}}
{{- $_ := set $envoy.static_resources "clusters" $clusters -}}
{{- end -}}
{{- toYaml $envoy }}
{{- end }}
{{- end }}

{{- define "doorward.hardened" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "doorward.container" -}}
{{- $node := eq .Values.mode "node" -}}
name: doorward
image: {{ include "doorward.image" (dict "image" .Values.image "default" .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve, --config, /etc/doorward/doorward.yaml]
env:
  # Without a CPU limit the runtime would take a thread for each core of the node.
  - {name: TOKIO_WORKER_THREADS, value: {{ .Values.threads | default (ternary 4 2 $node) | int | quote }}}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  {{- if $node }}
  - {name: doorward-check, containerPort: 9191}
  {{- end }}
  - {name: doorward-http, containerPort: 9192}
  - {name: doorward-admin, containerPort: 9193}
startupProbe:
  httpGet: {path: /livez, port: doorward-http}
  periodSeconds: 1
  failureThreshold: 30
readinessProbe:
  httpGet: {path: /readyz, port: doorward-http}
  periodSeconds: 2
  timeoutSeconds: 2
# Depends on nothing outside: an outage of Redis must not restart anything.
livenessProbe:
  httpGet: {path: /livez, port: doorward-http}
  periodSeconds: 10
  timeoutSeconds: 5
resources:
{{- if .Values.resources }}
  {{- toYaml .Values.resources | nindent 2 }}
{{- else if $node }}
  requests: {cpu: 200m, memory: 64Mi}
  limits: {memory: 512Mi}
{{- else }}
  requests: {cpu: 50m, memory: 32Mi}
  limits: {memory: 256Mi}
{{- end }}
securityContext:
  {{- include "doorward.hardened" 65532 | nindent 2 }}
volumeMounts:
  - {name: doorward-config, mountPath: /etc/doorward, readOnly: true}
  {{- if .Values.redis.existingSecret }}
  - {name: doorward-redis, mountPath: /etc/doorward-redis, readOnly: true}
  {{- end }}
{{- end }}

{{- define "doorward.volumes" -}}
- name: doorward-config
  configMap: {name: {{ include "doorward.fullname" . }}}
{{- with .Values.redis.existingSecret }}
- name: doorward-redis
  secret:
    secretName: {{ . }}
    items: [{key: {{ $.Values.redis.passwordKey }}, path: password}]
{{- end }}
{{- end }}

{{- define "doorward.pod" -}}
serviceAccountName: {{ include "doorward.fullname" . }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "doorward.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "doorward.labels" . | nindent 2 }}
{{- end }}
