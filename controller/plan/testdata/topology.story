# From Mesh to None: blocks from the API first, then the sessions go.
> node n1 10.0.0.1
    n1: tunnels none; no pools; sessions with 0 of 0 nodes
> node n2 10.0.0.2
    n1 n2: tunnels none; no pools; sessions with 1 of 1 nodes
> node n3 10.0.0.3
    n1 n2 n3: tunnels none; no pools; sessions with 2 of 2 nodes
> pool pods 172.25.0.0/16 None
    n1 n2 n3: tunnels none; pods None; sessions with 2 of 2 nodes
    pool pods: True Applied: the plans of nodes have None
> block n1 172.25.0.0/26 pods
> block n2 172.25.0.64/26 pods
> block n2 172.25.0.128/26 pods
> agents n1 n2 n3
> topology None
    n1 n2 n3: tunnels none; pods None; sessions with 2 of 2 nodes; blocks of 2 nodes from the API
    topology waits: n1 has not reported that it routes blocks from the API; n2 has not reported that it routes blocks from the API; n3 has not reported that it routes blocks from the API
    reports are awaited
> agents n1 n2
    topology waits: n3 has not reported that it routes blocks from the API
    no more: topology waits: n1 has not reported that it routes blocks from the API; n2 has not reported that it routes blocks from the API; n3 has not reported that it routes blocks from the API

# A node that joins in between gets both, and is waited for once heard of.
> node n4 10.0.0.4
    n1 n2 n3 n4: tunnels none; pods None; sessions with 3 of 3 nodes; blocks of 3 nodes from the API
    topology waits: n1 has not reported that it routes blocks from the API; n2 has not reported that it routes blocks from the API; n3 has not reported that it routes blocks from the API
    no more: topology waits: n3 has not reported that it routes blocks from the API
> agents n1 n2 n4
    topology waits: n3 has not reported that it routes blocks from the API
    no more: topology waits: n1 has not reported that it routes blocks from the API; n2 has not reported that it routes blocks from the API; n3 has not reported that it routes blocks from the API
> agents n3
    n1 n2 n3 n4: tunnels none; pods None; sessions with 0 of 3 nodes; blocks of 3 nodes from the API
    no more: topology waits: n3 has not reported that it routes blocks from the API
    no more: reports are awaited
> agents n1 n2 n3 n4

# One that joins a cluster without sessions gets none.
> node n5 10.0.0.5
    n1 n2 n3 n4 n5: tunnels none; pods None; sessions with 0 of 4 nodes; blocks of 4 nodes from the API
> agents n1 n2 n3 n4 n5

# Back to Mesh: sessions at once; the API's routes go when all sessions that count
# are up and carry the blocks.
> ready n5 Unknown
> mute n2
> topology Mesh
    n1 n2 n3 n4 n5: tunnels none; pods None; sessions with 4 of 4 nodes; blocks of 4 nodes from the API
    topology waits: n1 has no session with n2; n2 has no session with n1; n3 has no session with n1; and 1 more
    reports are awaited
    topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions; and 1 more
    no more: topology waits: n1 has no session with n2; n2 has no session with n1; n3 has no session with n1; and 1 more
> connected n1 n2 n3
    topology waits: n1 has taken 1 of 2 blocks from n2; n2 has no session with n4; n3 has taken 1 of 2 blocks from n2; and 1 more
    no more: topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions; and 1 more
> connected n1 n2 n3 n4
    topology waits: n1 has taken 1 of 2 blocks from n2; n3 has taken 1 of 2 blocks from n2; n4 has taken 1 of 2 blocks from n2
    no more: topology waits: n1 has taken 1 of 2 blocks from n2; n2 has no session with n4; n3 has taken 1 of 2 blocks from n2; and 1 more
> unmute n2
> connected n1 n2 n3 n4
    n1 n2 n3 n4 n5: tunnels none; pods None; sessions with 4 of 4 nodes
    no more: topology waits: n1 has taken 1 of 2 blocks from n2; n3 has taken 1 of 2 blocks from n2; n4 has taken 1 of 2 blocks from n2
    no more: reports are awaited
> ready n5 True
> ready n5 Unknown
> agents n1 n2 n3 n4 n5
