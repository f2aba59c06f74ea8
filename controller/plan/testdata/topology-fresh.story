# A cluster that begins with None never has sessions between nodes.
> topology None
> node n1 10.0.0.1
    n1: tunnels none; no pools; sessions with 0 of 0 nodes; blocks of 0 nodes from the API
> node n2 10.0.0.2 fd00::2
    n1 n2: tunnels none; no pools; sessions with 0 of 1 nodes; blocks of 1 nodes from the API
> node n3 fd00::3
    n1 n2 n3: tunnels none; no pools; sessions with 0 of 2 nodes; blocks of 2 nodes from the API
> agents n1 n2 n3

# A change of mind in the midst leaves everything in place.
> topology Mesh
    n1 n3: tunnels none; no pools; sessions with 1 of 2 nodes; blocks of 2 nodes from the API
    n2: tunnels none; no pools; sessions with 2 of 2 nodes; blocks of 2 nodes from the API
    topology waits: n1 has no session with n2; n2 has no session with n1; n3 has no session with n2
    reports are awaited
    topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions
    no more: topology waits: n1 has no session with n2; n2 has no session with n1; n3 has no session with n2
> agents n1
    topology waits: n1 has no session with n2; n2 has not reported its sessions; n3 has not reported its sessions
    no more: topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions
> topology None
    topology waits: n2 has not reported that it routes blocks from the API; n3 has not reported that it routes blocks from the API
    no more: topology waits: n1 has no session with n2; n2 has not reported its sessions; n3 has not reported its sessions
> agents n1 n2 n3
    n1 n2 n3: tunnels none; no pools; sessions with 0 of 2 nodes; blocks of 2 nodes from the API
    no more: topology waits: n2 has not reported that it routes blocks from the API; n3 has not reported that it routes blocks from the API
    no more: reports are awaited
> topology Mesh
    n1 n3: tunnels none; no pools; sessions with 1 of 2 nodes; blocks of 2 nodes from the API
    n2: tunnels none; no pools; sessions with 2 of 2 nodes; blocks of 2 nodes from the API
    topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions
    reports are awaited
> agents n2 n3
    topology waits: n1 has not reported its sessions
    no more: topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions
> agents n1
    n1 n3: tunnels none; no pools; sessions with 1 of 2 nodes
    n2: tunnels none; no pools; sessions with 2 of 2 nodes
    no more: topology waits: n1 has not reported its sessions
    no more: reports are awaited
