"""The process kubelet of the local plane: pods as processes of this machine.

kubelet       ties the parts together, answers logs, exec, attach
pod_worker    the life of one pod          container   one container over all its runs
container_config   spec to command line    probing     what is asked of a running container
status_writer the only writer of a status  status      container states to pod status, pure
sandbox       the seam to isolation        isolation   which one this machine gets, by trying it
bubblewrap    tier B: namespaces of its own             prefix   tier C: paths by prefix, nothing enforced
process       signalling, ending, reaping  starting, launch   from a command to the program
strays        what must never be left behind            usage      what runs takes of CPU and memory
images env downward volumes payload probes logs exec termination backoff     one concept each
addresses proxy hosts services             the loopback network of pods and Services
node scheduler api                         the Node object, who is bound to it, what pods ask of the API server
"""

from agentops.local.kubelet.images import DEFAULT_IMAGES, ImageMap, ImageSpec
from agentops.local.kubelet.kubelet import Kubelet, KubeletOptions

__all__ = ["DEFAULT_IMAGES", "ImageMap", "ImageSpec", "Kubelet", "KubeletOptions"]
