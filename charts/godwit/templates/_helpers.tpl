{{/* The image, by digest or by tag. */}}
{{- define "godwit.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The argument that tells a program of a namespace other than its default. */}}
{{- define "godwit.namespaceArg" -}}
{{- if ne .Values.namespace.name "godwit-system" }}
- --namespace={{ .Values.namespace.name }}
{{- end }}
{{- end -}}

{{/* How the API server is reached, where it is not by the Service kubernetes. */}}
{{- define "godwit.apiServerEnv" -}}
{{- with .Values.apiServer -}}
{{- if .host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .port | quote }}
{{- end }}
{{- end -}}
{{- end -}}
