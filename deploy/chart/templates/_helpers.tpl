{{- define "efc.driver" -}}efc.csi.data.fluid.io{{- end }}

{{- define "efc.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Of selectors, so for ever the same. Call with a dict of root and component. */}}
{{- define "efc.selector" -}}
app.kubernetes.io/name: efc-csi
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "efc.labels" -}}
{{ include "efc.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* Of both node parts: they must run wherever pods run, before these and longer. */}}
{{- define "efc.nodePlacement" -}}
nodeSelector: {{- toYaml .Values.nodeSelector | nindent 2 }}
tolerations: {{- toYaml .Values.tolerations | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
