# The planner ends, or fails to write, in the midst of a step. The next one goes on:
# it takes nothing back, although those with a new plan have not reported anew.
> node n1 10.0.0.1
    n1: tunnels none; no pools; sessions with 0 of 0 nodes
> node n2 10.0.0.2
    n1 n2: tunnels none; no pools; sessions with 1 of 1 nodes
> node n3 10.0.0.3
    n1 n2 n3: tunnels none; no pools; sessions with 2 of 2 nodes
> pool pods 172.25.0.0/16 IPIP
    n1 n2 n3: tunnels IPIP; pods IPIP; sessions with 2 of 2 nodes
    pool pods: True Applied: the plans of nodes have IPIP
> block n1 172.25.0.0/26 pods
> agents n1 n2 n3
> pool pods 172.25.0.0/16 VXLAN
    n1 n2 n3: tunnels IPIP,VXLAN; pods IPIP; sessions with 2 of 2 nodes
    pool pods: False WaitingForTunnels: nodes keep to IPIP until all can do VXLAN: n1 has not reported godwit.vxlan; n2 has not reported godwit.vxlan; n3 has not reported godwit.vxlan
    reports are awaited
> writable n1
> agents n1 n2 n3
    n1: tunnels IPIP,VXLAN; pods VXLAN; sessions with 2 of 2 nodes
    n2 n3: tunnels IPIP,VXLAN; pods IPIP; sessions with 2 of 2 nodes
    pool pods: True Applied: the plans of nodes have VXLAN
> writable
    n1 n2 n3: tunnels IPIP,VXLAN; pods VXLAN; sessions with 2 of 2 nodes
> agents n1 n2 n3
    n1 n2 n3: tunnels VXLAN; pods VXLAN; sessions with 2 of 2 nodes
    no more: reports are awaited
> writable n1 n2
> agents n1 n2 n3
> writable
> agents n1 n2 n3

> topology None
    n1 n2 n3: tunnels VXLAN; pods VXLAN; sessions with 2 of 2 nodes; blocks of 2 nodes from the API
    topology waits: n1 has not reported that it routes blocks from the API; n2 has not reported that it routes blocks from the API; n3 has not reported that it routes blocks from the API
    reports are awaited
> writable n2
> agents n1 n2 n3
    n1 n3: tunnels VXLAN; pods VXLAN; sessions with 2 of 2 nodes; blocks of 2 nodes from the API
    n2: tunnels VXLAN; pods VXLAN; sessions with 0 of 2 nodes; blocks of 2 nodes from the API
    no more: topology waits: n1 has not reported that it routes blocks from the API; n2 has not reported that it routes blocks from the API; n3 has not reported that it routes blocks from the API
    no more: reports are awaited
> writable
    n1 n2 n3: tunnels VXLAN; pods VXLAN; sessions with 0 of 2 nodes; blocks of 2 nodes from the API
> agents n1 n2 n3

> topology Mesh
    n1 n2 n3: tunnels VXLAN; pods VXLAN; sessions with 2 of 2 nodes; blocks of 2 nodes from the API
    topology waits: n1 has no session with n2; n2 has no session with n1; n3 has no session with n1
    reports are awaited
    topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions
    no more: topology waits: n1 has no session with n2; n2 has no session with n1; n3 has no session with n1
> writable n2
> agents n1 n2 n3
    n1 n3: tunnels VXLAN; pods VXLAN; sessions with 2 of 2 nodes; blocks of 2 nodes from the API
    n2: tunnels VXLAN; pods VXLAN; sessions with 2 of 2 nodes
    no more: topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions
    no more: reports are awaited
> writable
    n1 n2 n3: tunnels VXLAN; pods VXLAN; sessions with 2 of 2 nodes
> agents n1 n2 n3

# The plan was written to two of three, and now one of them can't do it any more:
# back to what all can.
> pool pods 172.25.0.0/16 IPIPCrossSubnet
    n1 n2 n3: tunnels IPIP,VXLAN; pods VXLAN; sessions with 2 of 2 nodes
    pool pods: False WaitingForTunnels: nodes keep to VXLAN until all can do IPIPCrossSubnet: n1 has not reported godwit.ipip; n2 has not reported godwit.ipip; n3 has not reported godwit.ipip
    reports are awaited
> agents n1 n2
    pool pods: False WaitingForTunnels: nodes keep to VXLAN until all can do IPIPCrossSubnet: n3 has not reported godwit.ipip
> writable n1 n2
> agents n3
    n1 n2: tunnels IPIP,VXLAN; pods IPIPCrossSubnet; sessions with 2 of 2 nodes
    n3: tunnels IPIP,VXLAN; pods VXLAN; sessions with 2 of 2 nodes
    pool pods: True Applied: the plans of nodes have IPIPCrossSubnet
> fail n3 IPIP DeviceConflict godwit.ipip is somebody else's
> remake n3
    n1 n2 n3: tunnels IPIP,VXLAN; pods VXLAN; sessions with 2 of 2 nodes
    pool pods: False WaitingForTunnels: nodes keep to VXLAN until all can do IPIPCrossSubnet: n3: DeviceConflict: godwit.ipip is somebody else's
    pool pods: False WaitingForTunnels: nodes keep to VXLAN until all can do IPIPCrossSubnet: n3: DeviceConflict: godwit.ipip is somebody else's; n1 has not reported godwit.ipip; n2 has not reported godwit.ipip
> writable
