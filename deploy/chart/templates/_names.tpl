{{- /* The InferencePool's name. Everything is called after it, as what `shunter envoyconf generate` installs. */ -}}
{{- define "shunter.pool" -}}
{{- $name := .Values.pool.name | default .Release.Name -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,46}[a-z0-9])?$" $name) -}}
{{- fail (printf "pool.name %q: at most 48 small letters, digits and inner hyphens, a letter first (the release's name stands in for it)" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "shunter.picker" -}}{{ include "shunter.pool" . }}-picker{{- end -}}
{{- define "shunter.gateway" -}}{{ include "shunter.pool" . }}-gateway{{- end -}}

{{- define "shunter.selector" -}}
app.kubernetes.io/name: shunter-picker
app.kubernetes.io/instance: {{ include "shunter.picker" . }}
{{- end -}}

{{- define "shunter.gatewaySelector" -}}
app.kubernetes.io/name: shunter-gateway
app.kubernetes.io/instance: {{ include "shunter.gateway" . }}
{{- end -}}

{{- define "shunter.labels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- /* The image of a component: list with the root and "picker", "scraper" or "envoyconf". */ -}}
{{- define "shunter.image" -}}
{{- $root := index . 0 -}}
image: {{ with $root.Values.image.registry }}{{ . }}/{{ end }}shunter-{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{- end -}}

{{- /* The Pod Security Standard "restricted", and a root nobody writes to. */ -}}
{{- define "shunter.confined" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "shunter.nobody" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "shunter.tlsSecret" -}}
{{- .Values.tls.secret | default (ternary (printf "%s-tls" (include "shunter.picker" .)) "" (not (empty .Values.tls.certManager.issuer))) -}}
{{- end -}}

{{- define "shunter.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "shunter.gatewayMeta" -}}
metadata:
  name: {{ index . 1 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "shunter.gatewaySelector" (index . 0) | nindent 4 }}
    {{- include "shunter.labels" (index . 0) | nindent 4 }}
{{- end }}

{{- /* Names and labels of an object: list with the root and its name. */ -}}
{{- define "shunter.meta" -}}
metadata:
  name: {{ index . 1 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "shunter.selector" (index . 0) | nindent 4 }}
    {{- include "shunter.labels" (index . 0) | nindent 4 }}
{{- end -}}
