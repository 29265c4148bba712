{{- define "efc.driver" -}}efc.csi.data.fluid.io{{- end }}

{{/* An image with the registry in front. Call with a dict of root and image. */}}
{{- define "efc.fromRegistry" -}}
{{- $registry := .root.Values.imageRegistry | default (.root.Values.global).imageRegistry -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .image }}
{{- end }}

{{- define "efc.image" -}}
{{- $image := printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{ include "efc.fromRegistry" (dict "root" . "image" $image) }}
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
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels and annotations of a part's pods. Call with a dict of root and component. */}}
{{- define "efc.podMetadata" -}}
{{- $part := index .root.Values .component -}}
labels: {{- include "efc.selector" . | nindent 2 }}
{{- with merge (dict) ($part.podLabels | default dict) .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with merge (dict) ($part.podAnnotations | default dict) ($part.annotations | default dict) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where a part's pods run, under which account. Call with a dict of root and component. */}}
{{- define "efc.podSpec" -}}
{{- $part := index .root.Values .component -}}
serviceAccountName: {{ include "efc.account" . }}
priorityClassName: {{ $part.priorityClassName }}
nodeSelector: {{- toYaml (kindIs "invalid" $part.nodeSelector | ternary .root.Values.nodeSelector $part.nodeSelector) | nindent 2 }}
tolerations: {{- toYaml (kindIs "invalid" $part.tolerations | ternary .root.Values.tolerations $part.tolerations) | nindent 2 }}
{{- with $part.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- else }}
{{- if gt (int ($part.replicas | default 1)) 1 }}
affinity: # apart, if they can be
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- include "efc.selector" . | nindent 14 }}
{{- end }}
{{- end }}
{{- with $part.hostAliases }}
hostAliases: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The name of a part's service account. Call with a dict of root and component. */}}
{{- define "efc.account" -}}
{{ (index .root.Values .component).serviceAccount.name | default (printf "efc-%s" .component) }}
{{- end }}

{{/* A part's service account, without rights of its own. Call with a dict of root and component. */}}
{{- define "efc.serviceAccount" -}}
{{- if (index .root.Values .component).serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "efc.account" . }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "efc.labels" . | nindent 4 }}
automountServiceAccountToken: false
---
{{- end }}
{{- end }}
