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

{{- /* The image of a component: list with the root and "picker", "scraper", "envoyconf" or "rollout". */ -}}
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

{{- /* Name and labels of an object: list with the root, whose it is ("picker", "gateway" or "adapters"), and its name. */ -}}
{{- define "shunter.meta" -}}
metadata:
  name: {{ index . 2 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "shunter.selector" . | nindent 4 }}
    {{- include "shunter.labels" (index . 0) | nindent 4 }}
{{- end -}}

{{- /* The scraper as a sidecar, there before what it serves and until that has ended: list with the root and further options. */ -}}
{{- define "shunter.scraper" -}}
{{- $root := index . 0 -}}
- name: scraper
  restartPolicy: Always
  {{- include "shunter.image" (list $root "scraper") | nindent 2 }}
  command:
  - shunter-scraper
  - run
  - --namespace={{ $root.Release.Namespace }}
  - --snapshot=/run/shunter/snapshot
  - --admin-host=0.0.0.0
  - --admin-port=9091
  - --log-level={{ $root.Values.log.level }}
  - --log-format={{ $root.Values.log.format }}
  {{- range index . 1 }}
  - {{ . | quote }}
  {{- end }}
  ports:
  - {name: http-scraper, containerPort: 9091}
  # It may take a starving node a minute to import what it needs.
  livenessProbe:
    httpGet: {path: /healthz, port: http-scraper}
    initialDelaySeconds: 120
    periodSeconds: 10
    timeoutSeconds: 5
  {{- include "shunter.confined" . | nindent 2 }}
  resources:
    {{- toYaml $root.Values.scraper.resources | nindent 4 }}
  volumeMounts:
  - {name: memory, mountPath: /run/shunter}
  - {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end -}}

{{- /* What it needs: memory to share, which counts as that of whoever writes it, and a token that no other container sees. */ -}}
{{- define "shunter.scraperVolumes" -}}
- name: memory
  emptyDir: {medium: Memory, sizeLimit: 256Mi}
- name: token
  projected:
    sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - configMap:
        name: kube-root-ca.crt
        items: [{key: ca.crt, path: ca.crt}]
    - downwardAPI:
        items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end -}}

{{- /* Where Pods of ours may run. */ -}}
{{- define "shunter.placed" -}}
{{- range $field := list "nodeSelector" "tolerations" "affinity" }}
{{- with index $.Values $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}
