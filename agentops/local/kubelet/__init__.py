"""The process kubelet of the local plane: pods as processes of this machine.

kubelet       ties the parts together, answers logs, exec, attach
pod_worker    the life of one pod          container   one container over all its runs
sandbox       the seam to isolation        prefix      tier C: paths by prefix, nothing enforced
process       starting and ending          strays      what must never be left behind
images env downward volumes payload probes logs exec status backoff     one concept each
addresses proxy hosts services             the loopback network of pods and Services
node scheduler                             the Node object, and who is bound to it
"""

from agentops.local.kubelet.images import DEFAULT_IMAGES, ImageMap, ImageSpec
from agentops.local.kubelet.kubelet import Kubelet, KubeletOptions

__all__ = ["DEFAULT_IMAGES", "ImageMap", "ImageSpec", "Kubelet", "KubeletOptions"]
