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
{{- define "shunter.adapters" -}}{{ include "shunter.pool" . }}-adapters{{- end -}}

{{- /* What a component's Pods are selected by: list with the root and "picker", "gateway" or "adapters". */ -}}
{{- define "shunter.selector" -}}
app.kubernetes.io/name: shunter-{{ index . 1 }}
app.kubernetes.io/instance: {{ include "shunter.pool" (index . 0) }}-{{ index . 1 }}
{{- end -}}

{{- define "shunter.labels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "shunter.tlsSecret" -}}
{{- .Values.tls.secret | default (ternary (printf "%s-tls" (include "shunter.picker" .)) "" (not (empty .Values.tls.certManager.issuer))) -}}
{{- end -}}

{{- /* Name and labels of an object: list with the root, whose it is ("picker", "gateway" or "adapters"), and its name. */ -}}
{{- define "shunter.meta" -}}
metadata:
  name: {{ index . 2 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "shunter.selector" . | nindent 4 }}
    {{- include "shunter.labels" (index . 0) | nindent 4 }}
{{- end -}}
