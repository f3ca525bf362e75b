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

{{- define "shunter.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
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
  - "--admin-host=::"
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
