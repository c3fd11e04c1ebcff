"""Field numbers of the messages kubectl sends (k8s.io/api generated.proto; stable forever).

Each field is `number:name=type`; type defaults to string; `[]` repeated, `*` pointer (zero is a
value), `map<T>` a map of strings to T.
"""

from __future__ import annotations

from agentops.local.apiserver.protobuf_pod import POD_INLINED, POD_MESSAGES

MESSAGES: dict[str, str] = {
    **POD_MESSAGES,
    "Empty": "",
    "ObjectMeta": "1:name 2:generateName 3:namespace 5:uid 6:resourceVersion 7:generation=int 8:creationTimestamp=Time "
    "9:deletionTimestamp=Time 10:deletionGracePeriodSeconds=int* 11:labels=map<string> 12:annotations=map<string> "
    "13:ownerReferences=OwnerReference[] 14:finalizers=string[]",
    "OwnerReference": "1:kind 3:name 4:uid 5:apiVersion 6:controller=bool* 7:blockOwnerDeletion=bool*",
    "LabelSelector": "1:matchLabels=map<string> 2:matchExpressions=LabelSelectorRequirement[]",
    "LabelSelectorRequirement": "1:key 2:operator 3:values=string[]",
    "ConfigMap": "1:metadata=ObjectMeta 2:data=map<string> 3:binaryData=map<bytes> 4:immutable=bool*",
    "Secret": "1:metadata=ObjectMeta 2:data=map<bytes> 3:type 4:stringData=map<string> 5:immutable=bool*",
    "Namespace": "1:metadata=ObjectMeta 2:spec=NamespaceSpec",
    "NamespaceSpec": "1:finalizers=string[]",
    "ObjectReference": "1:kind 2:namespace 3:name 4:uid 5:apiVersion 6:resourceVersion 7:fieldPath",
    "LocalObjectReference": "1:name",
    "ServiceAccount": "1:metadata=ObjectMeta 2:secrets=ObjectReference[] 3:imagePullSecrets=LocalObjectReference[] "
    "4:automountServiceAccountToken=bool*",
    "ResourceQuota": "1:metadata=ObjectMeta 2:spec=ResourceQuotaSpec",
    "ResourceQuotaSpec": "1:hard=map<Quantity> 2:scopes=string[]",
    "PriorityClass": "1:metadata=ObjectMeta 2:value=int 3:globalDefault=bool 4:description 5:preemptionPolicy=string*",
    "Service": "1:metadata=ObjectMeta 2:spec=ServiceSpec",
    "ServiceSpec": "1:ports=ServicePort[] 2:selector=map<string> 3:clusterIP 4:type 7:sessionAffinity 10:externalName "
    "17:ipFamilyPolicy=string* 18:clusterIPs=string[]",
    "ServicePort": "1:name 2:protocol 3:port=int 4:targetPort=IntOrString 5:nodePort=int 6:appProtocol=string*",
    "SelfSubjectAccessReview": "1:metadata=ObjectMeta 2:spec=SelfSubjectAccessReviewSpec",
    "SelfSubjectAccessReviewSpec": "1:resourceAttributes=ResourceAttributes "
    "2:nonResourceAttributes=NonResourceAttributes",
    "SubjectAccessReview": "1:metadata=ObjectMeta 2:spec=SubjectAccessReviewSpec",
    "SubjectAccessReviewSpec": "1:resourceAttributes=ResourceAttributes 2:nonResourceAttributes=NonResourceAttributes "
    "3:user 4:groups=string[] 6:uid",
    "NonResourceAttributes": "1:path 2:verb",
    "ResourceAttributes": "1:namespace 2:verb 3:group 4:version 5:resource 6:subresource 7:name",
    "SelfSubjectRulesReview": "1:metadata=ObjectMeta 2:spec=SelfSubjectRulesReviewSpec",
    "SelfSubjectRulesReviewSpec": "1:namespace",
    "SelfSubjectReview": "1:metadata=ObjectMeta",
    "TokenReview": "1:metadata=ObjectMeta 2:spec=TokenReviewSpec",
    "TokenReviewSpec": "1:token 2:audiences=string[]",
    "TokenRequest": "1:metadata=ObjectMeta 2:spec=TokenRequestSpec",
    "TokenRequestSpec": "1:audiences=string[] 3:boundObjectRef=BoundObjectReference 4:expirationSeconds=int*",
    "BoundObjectReference": "1:kind 2:apiVersion 3:name 4:uid",
    "Role": "1:metadata=ObjectMeta 2:rules=PolicyRule[]",
    "ClusterRole": "1:metadata=ObjectMeta 2:rules=PolicyRule[] 3:aggregationRule=AggregationRule",
    "AggregationRule": "1:clusterRoleSelectors=LabelSelector[]",
    "PolicyRule": "1:verbs=string[] 2:apiGroups=string[] 3:resources=string[] 4:resourceNames=string[] "
    "5:nonResourceURLs=string[]",
    "RoleBinding": "1:metadata=ObjectMeta 2:subjects=Subject[] 3:roleRef=RoleRef",
    "ClusterRoleBinding": "1:metadata=ObjectMeta 2:subjects=Subject[] 3:roleRef=RoleRef",
    "Subject": "1:kind 2:apiGroup 3:name 4:namespace",
    "RoleRef": "1:apiGroup 2:kind 3:name",
    "Deployment": "1:metadata=ObjectMeta 2:spec=DeploymentSpec",
    "DeploymentSpec": "1:replicas=int* 2:selector=LabelSelector 3:template=PodTemplateSpec "
    "4:strategy=DeploymentStrategy "
    "5:minReadySeconds=int 6:revisionHistoryLimit=int* 7:paused=bool 9:progressDeadlineSeconds=int*",
    "DeploymentStrategy": "1:type 2:rollingUpdate=RollingUpdateDeployment",
    "RollingUpdateDeployment": "1:maxUnavailable=IntOrString 2:maxSurge=IntOrString",
    "Job": "1:metadata=ObjectMeta 2:spec=JobSpec",
    "JobSpec": "1:parallelism=int* 2:completions=int* 3:activeDeadlineSeconds=int* 4:selector=LabelSelector "
    "5:manualSelector=bool* 6:template=PodTemplateSpec 7:backoffLimit=int* 8:ttlSecondsAfterFinished=int* "
    "9:completionMode=string* 10:suspend=bool* 11:podFailurePolicy=PodFailurePolicy 12:backoffLimitPerIndex=int* "
    "13:maxFailedIndexes=int* 14:podReplacementPolicy=string* 15:managedBy=string* 16:successPolicy=SuccessPolicy",
    "CronJob": "1:metadata=ObjectMeta 2:spec=CronJobSpec",
    "CronJobSpec": "1:schedule 2:startingDeadlineSeconds=int* 3:concurrencyPolicy 4:suspend=bool* "
    "5:jobTemplate=JobTemplateSpec 6:successfulJobsHistoryLimit=int* 7:failedJobsHistoryLimit=int* 8:timeZone=string*",
    "JobTemplateSpec": "1:metadata=ObjectMeta 2:spec=JobSpec",
    "Pod": "1:metadata=ObjectMeta 2:spec=PodSpec",
    "PodTemplateSpec": "1:metadata=ObjectMeta 2:spec=PodSpec",
    "PodDisruptionBudget": "1:metadata=ObjectMeta 2:spec=PodDisruptionBudgetSpec",
    "PodDisruptionBudgetSpec": "1:minAvailable=IntOrString 2:selector=LabelSelector 3:maxUnavailable=IntOrString",
    "Eviction": "1:metadata=ObjectMeta 2:deleteOptions=DeleteOptions",
    "DeleteOptions": "1:gracePeriodSeconds=int* 2:preconditions=Preconditions 3:orphanDependents=bool* "
    "4:propagationPolicy=string* 5:dryRun=string[]",
    "Preconditions": "1:uid=string* 2:resourceVersion=string*",
    "Ingress": "1:metadata=ObjectMeta 2:spec=IngressSpec",
    "IngressSpec": "1:defaultBackend=IngressBackend 2:tls=IngressTLS[] 3:rules=IngressRule[] "
    "4:ingressClassName=string*",
    "IngressBackend": "3:resource=TypedReference 4:service=IngressServiceBackend",
    "TypedReference": "1:apiGroup=string* 2:kind 3:name",
    "IngressServiceBackend": "1:name 2:port=ServiceBackendPort",
    "ServiceBackendPort": "1:name 2:number=int",
    "IngressTLS": "1:hosts=string[] 2:secretName",
    "IngressRule": "1:host 2:ingressRuleValue=IngressRuleValue",
    "IngressRuleValue": "1:http=HTTPIngressRuleValue",
    "HTTPIngressRuleValue": "1:paths=HTTPIngressPath[]",
    "HTTPIngressPath": "1:path 2:backend=IngressBackend 3:pathType=string*",
    "Event": "1:metadata=ObjectMeta 2:involvedObject=ObjectReference 3:reason 4:message 5:source=EventSource "
    "6:firstTimestamp=Time 7:lastTimestamp=Time 8:count=int 9:type",
    "EventSource": "1:component 2:host",
    "Scale": "1:metadata=ObjectMeta 2:spec=ScaleSpec",
    "ScaleSpec": "1:replicas=int*",
}

ROOTS: dict[str, str] = {
    name: name
    for name in (
        "ConfigMap", "Secret", "Namespace", "ServiceAccount", "ResourceQuota", "PriorityClass", "Service",
        "SelfSubjectAccessReview", "SubjectAccessReview", "SelfSubjectRulesReview", "SelfSubjectReview",
        "TokenReview", "TokenRequest", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "Deployment",
        "Job", "CronJob", "Pod", "PodDisruptionBudget", "Eviction", "DeleteOptions", "Ingress", "Event", "Scale",
    )
}  # fmt: skip
ROOTS["LocalSubjectAccessReview"] = "SubjectAccessReview"

INLINED = POD_INLINED | {("IngressRule", "ingressRuleValue")}
"""Members that Go inlines: their fields belong to the outer message."""
