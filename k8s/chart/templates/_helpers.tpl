{{- define "jwt-bouncer.labels" -}}
app.kubernetes.io/name: jwt-bouncer
app.kubernetes.io/part-of: jwt-bouncer
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- define "jwt-bouncer.selector" -}}
app.kubernetes.io/name: jwt-bouncer
app.kubernetes.io/component: authorizer
{{- end }}
{{- define "jwt-bouncer.pooler" -}}
app.kubernetes.io/name: pgbouncer
app.kubernetes.io/component: pooler
{{- end }}
{{- define "jwt-bouncer.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- define "jwt-bouncer.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "jwt-bouncer.container" -}}
image: {{ include "jwt-bouncer.image" . }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: config, mountPath: /etc/jwt-bouncer, readOnly: true}
  - {name: secrets, mountPath: /etc/jwt-bouncer-secrets, readOnly: true}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
