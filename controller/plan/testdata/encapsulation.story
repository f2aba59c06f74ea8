# A pool that nobody knows is planned as it asks for, at once.
> node n1 10.0.0.1
    n1: tunnels none; no pools; sessions with 0 of 0 nodes
> node n2 10.0.0.2
    n1 n2: tunnels none; no pools; sessions with 1 of 1 nodes
> node n3 10.0.0.3
    n1 n2 n3: tunnels none; no pools; sessions with 2 of 2 nodes
> pool pods 172.25.0.0/16 IPIP
    n1 n2 n3: tunnels IPIP; pods IPIP; sessions with 2 of 2 nodes
    pool pods: True Applied: the plans of nodes have IPIP
> agents n1 n2 n3

# What is narrower needs nothing; what is wider needs the tunnels, which are there.
> pool pods 172.25.0.0/16 IPIPCrossSubnet
    n1 n2 n3: tunnels IPIP; pods IPIPCrossSubnet; sessions with 2 of 2 nodes
    pool pods: True Applied: the plans of nodes have IPIPCrossSubnet
> agents n1 n2 n3
> pool pods 172.25.0.0/16 IPIP
    n1 n2 n3: tunnels IPIP; pods IPIP; sessions with 2 of 2 nodes
    pool pods: True Applied: the plans of nodes have IPIP
> agents n1 n2 n3

# Another kind: first its tunnels, then its use, then the old ones go.
> pool pods 172.25.0.0/16 VXLANCrossSubnet
    n1 n2 n3: tunnels IPIP,VXLAN; pods IPIP; sessions with 2 of 2 nodes
    pool pods: False WaitingForTunnels: nodes keep to IPIP until all can do VXLANCrossSubnet: n1 has not reported godwit.vxlan; n2 has not reported godwit.vxlan; n3 has not reported godwit.vxlan
    reports are awaited
> agents n1
    pool pods: False WaitingForTunnels: nodes keep to IPIP until all can do VXLANCrossSubnet: n2 has not reported godwit.vxlan; n3 has not reported godwit.vxlan
> agents n2 n3
    n1 n2 n3: tunnels IPIP,VXLAN; pods VXLANCrossSubnet; sessions with 2 of 2 nodes
    pool pods: True Applied: the plans of nodes have VXLANCrossSubnet
> agents n1 n3
> agents n2
    n1 n2 n3: tunnels VXLAN; pods VXLANCrossSubnet; sessions with 2 of 2 nodes
    no more: reports are awaited
> agents n1 n2 n3

# And back. The kernel of one node lacks ipip for a while; a fourth node comes, whose
# agent is not waited for until it has been heard of.
> fail n3 IPIP NotSupported the kernel has no ipip
> pool pods 172.25.0.0/16 IPIP
    n1 n2 n3: tunnels IPIP,VXLAN; pods VXLANCrossSubnet; sessions with 2 of 2 nodes
    pool pods: False WaitingForTunnels: nodes keep to VXLANCrossSubnet until all can do IPIP: n1 has not reported godwit.ipip; n2 has not reported godwit.ipip; n3 has not reported godwit.ipip
    reports are awaited
> agents n1 n2 n3
    pool pods: False WaitingForTunnels: nodes keep to VXLANCrossSubnet until all can do IPIP: n3: NotSupported: the kernel has no ipip
> node n4 10.0.0.4
    n1 n2 n3 n4: tunnels IPIP,VXLAN; pods VXLANCrossSubnet; sessions with 3 of 3 nodes
    pool pods: False WaitingForTunnels: nodes keep to VXLANCrossSubnet until all can do IPIP: n3: NotSupported: the kernel has no ipip; n1 has not reported godwit.ipip; n2 has not reported godwit.ipip
> agents n1 n2 n3
    pool pods: False WaitingForTunnels: nodes keep to VXLANCrossSubnet until all can do IPIP: n3: NotSupported: the kernel has no ipip
> agents n4
> agents n4
> mend n3 IPIP
> agents n3
    n1 n2 n3 n4: tunnels IPIP,VXLAN; pods IPIP; sessions with 3 of 3 nodes
    pool pods: True Applied: the plans of nodes have IPIP
> agents n1 n2 n3 n4
    n1 n2 n3 n4: tunnels IPIP; pods IPIP; sessions with 3 of 3 nodes
    no more: reports are awaited
> agents n1 n2 n3 n4

# None needs no tunnel.
> pool pods 172.25.0.0/16 None
    n1 n2 n3 n4: tunnels IPIP; pods None; sessions with 3 of 3 nodes
    pool pods: True Applied: the plans of nodes have None
    reports are awaited
> agents n1 n2 n3
> agents n4
    n1 n2 n3 n4: tunnels none; pods None; sessions with 3 of 3 nodes
    no more: reports are awaited
> agents n1 n2 n3 n4

# What becomes wider waits for a node that could not make the tunnel when it came.
> pool pods 172.25.0.0/16 VXLANCrossSubnet
    n1 n2 n3 n4: tunnels VXLAN; pods None; sessions with 3 of 3 nodes
    pool pods: False WaitingForTunnels: nodes keep to None until all can do VXLANCrossSubnet: n1 has not reported godwit.vxlan; n2 has not reported godwit.vxlan; n3 has not reported godwit.vxlan; and 1 more
    reports are awaited
> agents n1 n2 n3 n4
    n1 n2 n3 n4: tunnels VXLAN; pods VXLANCrossSubnet; sessions with 3 of 3 nodes
    pool pods: True Applied: the plans of nodes have VXLANCrossSubnet
    no more: reports are awaited
> node n5 10.0.0.5
    n1 n2 n3 n4 n5: tunnels VXLAN; pods VXLANCrossSubnet; sessions with 4 of 4 nodes
> fail n5 VXLAN PortInUse UDP port 4789 is taken
> agents n1 n2 n3 n4 n5
> agents n1 n2 n3 n4 n5
> pool pods 172.25.0.0/16 VXLAN
    pool pods: False WaitingForTunnels: nodes keep to VXLANCrossSubnet until all can do VXLAN: n5: PortInUse: UDP port 4789 is taken
    reports are awaited
> mend n5 VXLAN
> agents n5
    n1 n2 n3 n4 n5: tunnels VXLAN; pods VXLAN; sessions with 4 of 4 nodes
    pool pods: True Applied: the plans of nodes have VXLAN
    no more: reports are awaited
