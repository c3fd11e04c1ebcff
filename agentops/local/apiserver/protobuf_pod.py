"""Field numbers of a pod's spec and all it is made of (k8s.io/api core/v1 generated.proto; stable forever).

The notation is that of `protobuf_tables`. Volumes of vendors' storage, which no machine of ours has, are left out.
"""

from __future__ import annotations

POD_MESSAGES: dict[str, str] = {
    "PodSpec": "1:volumes=Volume[] 2:containers=Container[] 3:restartPolicy 4:terminationGracePeriodSeconds=int* "
    "5:activeDeadlineSeconds=int* 6:dnsPolicy 7:nodeSelector=map<string> 8:serviceAccountName 9:serviceAccount "
    "10:nodeName 11:hostNetwork=bool 12:hostPID=bool 13:hostIPC=bool 14:securityContext=PodSecurityContext* "
    "15:imagePullSecrets=LocalObjectReference[] 16:hostname 17:subdomain 18:affinity=Affinity 19:schedulerName "
    "20:initContainers=Container[] 21:automountServiceAccountToken=bool* 22:tolerations=Toleration[] "
    "23:hostAliases=HostAlias[] 24:priorityClassName 25:priority=int* 26:dnsConfig=PodDNSConfig "
    "27:shareProcessNamespace=bool* 28:readinessGates=PodReadinessGate[] 29:runtimeClassName=string* "
    "30:enableServiceLinks=bool* 31:preemptionPolicy=string* 32:overhead=map<Quantity> "
    "33:topologySpreadConstraints=TopologySpreadConstraint[] 34:ephemeralContainers=EphemeralContainer[] "
    "35:setHostnameAsFQDN=bool* 36:os=PodOS 37:hostUsers=bool* 38:schedulingGates=PodSchedulingGate[]",
    "Volume": "1:name 2:volumeSource=VolumeSource",
    "VolumeSource": "1:hostPath=HostPathVolumeSource 2:emptyDir=EmptyDirVolumeSource* 6:secret=SecretVolumeSource "
    "7:nfs=NFSVolumeSource 10:persistentVolumeClaim=PersistentVolumeClaimVolumeSource "
    "16:downwardAPI=DownwardAPIVolumeSource* 19:configMap=ConfigMapVolumeSource 26:projected=ProjectedVolumeSource* "
    "28:csi=CSIVolumeSource 29:ephemeral=EphemeralVolumeSource 30:image=ImageVolumeSource",
    "HostPathVolumeSource": "1:path 2:type=string*",
    "EmptyDirVolumeSource": "1:medium 2:sizeLimit=Quantity",
    "SecretVolumeSource": "1:secretName 2:items=KeyToPath[] 3:defaultMode=int* 4:optional=bool*",
    "KeyToPath": "1:key 2:path 3:mode=int*",
    "NFSVolumeSource": "1:server 2:path 3:readOnly=bool",
    "PersistentVolumeClaimVolumeSource": "1:claimName 2:readOnly=bool",
    "DownwardAPIVolumeSource": "1:items=DownwardAPIVolumeFile[] 2:defaultMode=int*",
    "DownwardAPIVolumeFile": "1:path 2:fieldRef=ObjectFieldSelector 3:resourceFieldRef=ResourceFieldSelector "
    "4:mode=int*",
    "ObjectFieldSelector": "1:apiVersion 2:fieldPath",
    "ResourceFieldSelector": "1:containerName 2:resource 3:divisor=Quantity",
    "ConfigMapVolumeSource": "1:localObjectReference=LocalObjectReference 2:items=KeyToPath[] 3:defaultMode=int* "
    "4:optional=bool*",
    "ProjectedVolumeSource": "1:sources=VolumeProjection[] 2:defaultMode=int*",
    "VolumeProjection": "1:secret=SecretProjection 2:downwardAPI=DownwardAPIProjection "
    "3:configMap=ConfigMapProjection 4:serviceAccountToken=ServiceAccountTokenProjection",
    "SecretProjection": "1:localObjectReference=LocalObjectReference 2:items=KeyToPath[] 4:optional=bool*",
    "DownwardAPIProjection": "1:items=DownwardAPIVolumeFile[]",
    "ConfigMapProjection": "1:localObjectReference=LocalObjectReference 2:items=KeyToPath[] 4:optional=bool*",
    "ServiceAccountTokenProjection": "1:audience 2:expirationSeconds=int* 3:path",
    "CSIVolumeSource": "1:driver 2:readOnly=bool* 3:fsType=string* 4:volumeAttributes=map<string> "
    "5:nodePublishSecretRef=LocalObjectReference",
    "Container": "1:name 2:image 3:command=string[] 4:args=string[] 5:workingDir 6:ports=ContainerPort[] "
    "7:env=EnvVar[] 8:resources=ResourceRequirements 9:volumeMounts=VolumeMount[] 10:livenessProbe=Probe "
    "11:readinessProbe=Probe 12:lifecycle=Lifecycle 13:terminationMessagePath 14:imagePullPolicy "
    "15:securityContext=SecurityContext* 16:stdin=bool 17:stdinOnce=bool 18:tty=bool 19:envFrom=EnvFromSource[] "
    "20:terminationMessagePolicy 21:volumeDevices=VolumeDevice[] 22:startupProbe=Probe "
    "23:resizePolicy=ContainerResizePolicy[] 24:restartPolicy=string*",
    "ContainerPort": "1:name 2:hostPort=int 3:containerPort=int 4:protocol 5:hostIP",
    "EnvFromSource": "1:prefix 2:configMapRef=EnvSource 3:secretRef=EnvSource",
    "EnvSource": "1:localObjectReference=LocalObjectReference 2:optional=bool*",
    "EnvVar": "1:name 2:value 3:valueFrom=EnvVarSource",
    "EnvVarSource": "1:fieldRef=ObjectFieldSelector 2:resourceFieldRef=ResourceFieldSelector "
    "3:configMapKeyRef=KeySelector 4:secretKeyRef=KeySelector",
    "KeySelector": "1:localObjectReference=LocalObjectReference 2:key 3:optional=bool*",
    "ResourceRequirements": "1:limits=map<Quantity> 2:requests=map<Quantity> 3:claims=ResourceClaim[]",
    "VolumeMount": "1:name 2:readOnly=bool 3:mountPath 4:subPath 5:mountPropagation=string* 6:subPathExpr "
    "7:recursiveReadOnly=string*",
    "VolumeDevice": "1:name 2:devicePath",
    "Probe": "1:handler=Handler 2:initialDelaySeconds=int 3:timeoutSeconds=int 4:periodSeconds=int "
    "5:successThreshold=int 6:failureThreshold=int 7:terminationGracePeriodSeconds=int*",
    "Handler": "1:exec=ExecAction 2:httpGet=HTTPGetAction 3:tcpSocket=TCPSocketAction 4:grpc=GRPCAction",
    "ExecAction": "1:command=string[]",
    "HTTPGetAction": "1:path 2:port=IntOrString 3:host 4:scheme 5:httpHeaders=HTTPHeader[]",
    "HTTPHeader": "1:name 2:value",
    "TCPSocketAction": "1:port=IntOrString 2:host",
    "Lifecycle": "1:postStart=LifecycleHandler 2:preStop=LifecycleHandler",
    "SecurityContext": "1:capabilities=Capabilities 2:privileged=bool* 3:seLinuxOptions=SELinuxOptions "
    "4:runAsUser=int* 5:runAsNonRoot=bool* 6:readOnlyRootFilesystem=bool* 7:allowPrivilegeEscalation=bool* "
    "8:runAsGroup=int* 9:procMount=string* 11:seccompProfile=SeccompProfile 12:appArmorProfile=SeccompProfile",
    "Capabilities": "1:add=string[] 2:drop=string[]",
    "SELinuxOptions": "1:user 2:role 3:type 4:level",
    "PodSecurityContext": "1:seLinuxOptions=SELinuxOptions 2:runAsUser=int* 3:runAsNonRoot=bool* "
    "4:supplementalGroups=int[] 5:fsGroup=int* 6:runAsGroup=int* 7:sysctls=Sysctl[] 9:fsGroupChangePolicy=string* "
    "10:seccompProfile=SeccompProfile 11:appArmorProfile=SeccompProfile 12:supplementalGroupsPolicy=string* "
    "13:seLinuxChangePolicy=string*",
    "Sysctl": "1:name 2:value",
    "Affinity": "1:nodeAffinity=NodeAffinity 2:podAffinity=PodAffinity 3:podAntiAffinity=PodAntiAffinity",
    "NodeAffinity": "1:requiredDuringSchedulingIgnoredDuringExecution=NodeSelector "
    "2:preferredDuringSchedulingIgnoredDuringExecution=PreferredSchedulingTerm[]",
    "NodeSelector": "1:nodeSelectorTerms=NodeSelectorTerm[]",
    "NodeSelectorTerm": "1:matchExpressions=NodeSelectorRequirement[] 2:matchFields=NodeSelectorRequirement[]",
    "NodeSelectorRequirement": "1:key 2:operator 3:values=string[]",
    "PreferredSchedulingTerm": "1:weight=int 2:preference=NodeSelectorTerm",
    "PodAffinity": "1:requiredDuringSchedulingIgnoredDuringExecution=PodAffinityTerm[] "
    "2:preferredDuringSchedulingIgnoredDuringExecution=WeightedPodAffinityTerm[]",
    "PodAffinityTerm": "1:labelSelector=LabelSelector 2:namespaces=string[] 3:topologyKey "
    "4:namespaceSelector=LabelSelector* 5:matchLabelKeys=string[] 6:mismatchLabelKeys=string[]",
    "WeightedPodAffinityTerm": "1:weight=int 2:podAffinityTerm=PodAffinityTerm",
    "PodAntiAffinity": "1:requiredDuringSchedulingIgnoredDuringExecution=PodAffinityTerm[] "
    "2:preferredDuringSchedulingIgnoredDuringExecution=WeightedPodAffinityTerm[]",
    "Toleration": "1:key 2:operator 3:value 4:effect 5:tolerationSeconds=int*",
    "HostAlias": "1:ip 2:hostnames=string[]",
    "PodDNSConfig": "1:nameservers=string[] 2:searches=string[] 3:options=PodDNSConfigOption[]",
    "PodDNSConfigOption": "1:name 2:value=string*",
    "PodReadinessGate": "1:conditionType",
    "LifecycleHandler": "1:exec=ExecAction 2:httpGet=HTTPGetAction 3:tcpSocket=TCPSocketAction 4:sleep=SleepAction*",
    "GRPCAction": "1:port=int 2:service=string*",
    "SleepAction": "1:seconds=int",
    "EphemeralContainer": "1:ephemeralContainerCommon=Container 2:targetContainerName",
    "ContainerResizePolicy": "1:resourceName 2:restartPolicy",
    "ResourceClaim": "1:name 2:request",
    "SeccompProfile": "1:type 2:localhostProfile=string*",
    "TopologySpreadConstraint": "1:maxSkew=int 2:topologyKey 3:whenUnsatisfiable 4:labelSelector=LabelSelector "
    "5:minDomains=int* 6:nodeAffinityPolicy=string* 7:nodeTaintsPolicy=string* 8:matchLabelKeys=string[]",
    "PodOS": "1:name",
    "PodSchedulingGate": "1:name",
    "EphemeralVolumeSource": "1:volumeClaimTemplate=VolumeClaimTemplate",
    "VolumeClaimTemplate": "1:metadata=ObjectMeta 2:spec=VolumeClaimSpec",
    "VolumeClaimSpec": "1:accessModes=string[] 2:resources=ResourceRequirements 3:volumeName 4:selector=LabelSelector "
    "5:storageClassName=string* 6:volumeMode=string*",
    "ImageVolumeSource": "1:reference 2:pullPolicy",
    "PodFailurePolicy": "1:rules=PodFailurePolicyRule[]",
    "PodFailurePolicyRule": "1:action 2:onExitCodes=PodFailurePolicyOnExitCodes "
    "3:onPodConditions=PodFailurePolicyOnPodCondition[]",
    "PodFailurePolicyOnExitCodes": "1:containerName=string* 2:operator 3:values=int[]",
    "PodFailurePolicyOnPodCondition": "1:type 2:status",
    "SuccessPolicy": "1:rules=SuccessPolicyRule[]",
    "SuccessPolicyRule": "1:succeededIndexes=string* 2:succeededCount=int*",
}

POD_INLINED = frozenset(
    {
        ("Volume", "volumeSource"),
        ("Probe", "handler"),
        ("EphemeralContainer", "ephemeralContainerCommon"),
        ("ConfigMapVolumeSource", "localObjectReference"),
        ("ConfigMapProjection", "localObjectReference"),
        ("SecretProjection", "localObjectReference"),
        ("KeySelector", "localObjectReference"),
        ("EnvSource", "localObjectReference"),
    }
)
"""Members that Go inlines: their fields belong to the outer message."""
