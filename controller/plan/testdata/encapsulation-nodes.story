# Nodes that are not waited for: those that never reported, are not ready, or are
# being deleted.
> node n1 10.0.0.1
    n1: tunnels none; no pools; sessions with 0 of 0 nodes
> node n2 10.0.0.2
    n1 n2: tunnels none; no pools; sessions with 1 of 1 nodes
> node n3 10.0.0.3
    n1 n2 n3: tunnels none; no pools; sessions with 2 of 2 nodes
> node n4 10.0.0.4
    n1 n2 n3 n4: tunnels none; no pools; sessions with 3 of 3 nodes
> pool pods 172.25.0.0/16 None
    n1 n2 n3 n4: tunnels none; pods None; sessions with 3 of 3 nodes
    pool pods: True Applied: the plans of nodes have None
> agents n1 n2 n3
> ready n2 Unknown
> pool pods 172.25.0.0/16 VXLAN
    n1 n2 n3 n4: tunnels VXLAN; pods None; sessions with 3 of 3 nodes
    pool pods: False WaitingForTunnels: nodes keep to None until all can do VXLAN: n1 has not reported godwit.vxlan; n3 has not reported godwit.vxlan
    reports are awaited
> agents n1
    pool pods: False WaitingForTunnels: nodes keep to None until all can do VXLAN: n3 has not reported godwit.vxlan
> delete n3
    n1 n2 n3 n4: tunnels VXLAN; pods VXLAN; sessions with 3 of 3 nodes
    pool pods: True Applied: the plans of nodes have VXLAN
    no more: reports are awaited

# A node that says that it can't is waited for, even when it is not ready for a
# while.
> pool pods 172.25.0.0/16 IPIP
    n1 n2 n3 n4: tunnels IPIP,VXLAN; pods VXLAN; sessions with 3 of 3 nodes
    pool pods: False WaitingForTunnels: nodes keep to VXLAN until all can do IPIP: n1 has not reported godwit.ipip
    reports are awaited
> gone n3
    n1 n2 n4: tunnels IPIP,VXLAN; pods VXLAN; sessions with 2 of 2 nodes
> gone n4
    n1 n2: tunnels IPIP,VXLAN; pods VXLAN; sessions with 1 of 1 nodes
> ready n2 True
    pool pods: False WaitingForTunnels: nodes keep to VXLAN until all can do IPIP: n1 has not reported godwit.ipip; n2 has not reported godwit.ipip
> fail n2 IPIP NotSupported the kernel has no ipip
> agents n1 n2
    pool pods: False WaitingForTunnels: nodes keep to VXLAN until all can do IPIP: n2: NotSupported: the kernel has no ipip
> ready n2 False
> ready n2 True
> pool pods 172.25.0.0/16 VXLAN
    n1 n2: tunnels VXLAN; pods VXLAN; sessions with 1 of 1 nodes
    pool pods: True Applied: the plans of nodes have VXLAN
    no more: reports are awaited
> agents n1 n2
