"""What can go wrong between a pod's spec and its processes.

KubeletError
├── ImageNotMapped      the image has no program on this machine (ErrImagePull, ImagePullBackOff)
├── ContainerConfig     the environment cannot be made (CreateContainerConfigError)
├── VolumeNotReady      a volume's source is absent (FailedMount; tried again)
├── PodRefused          the pod asks for what this node never gives (FailedCreatePodSandBox; final)
└── StartError          the program could not be executed (ContainerCannotRun)
"""

from __future__ import annotations


class KubeletError(Exception):
    """Root of this package's errors. The message is what `kubectl describe pod` shows."""


class ImageNotMapped(KubeletError):
    """No program stands behind the image."""


class ContainerConfig(KubeletError):
    """A referenced Secret, ConfigMap, key or field is missing."""


class VolumeNotReady(KubeletError):
    """A volume cannot be filled yet."""


class PodRefused(KubeletError):
    """The pod asks for something the sandbox must not give, such as a host path."""


class StartError(KubeletError):
    """The program could not be executed; the message names it and the reason."""
