# A fourth node is one too many for a mesh of three: the reflectors come at once, beside
# the mesh, which goes when all have learned everything from them.
> pool pods 172.25.0.0/16 None
    pool pods: True Applied: the plans of nodes have None
> topology Auto
> reflectors 2 3 any
> node n1 10.0.0.1
    n1: tunnels none; pods None; sessions with 0 of 0 nodes
> node n2 10.0.0.2
    n1 n2: tunnels none; pods None; sessions with 1 of 1 nodes
> node n3 10.0.0.3
    n1 n2 n3: tunnels none; pods None; sessions with 2 of 2 nodes
> block n1 172.25.0.0/26 pods
> block n2 172.25.0.64/26 pods
> block n3 172.25.0.128/26 pods
> agents n1 n2 n3
> node n4 10.0.0.4
    n1: tunnels none; pods None; sessions with 3 of 3 nodes; reflector; reflectors n2; clients n3,n4
    n2: tunnels none; pods None; sessions with 3 of 3 nodes; reflector; reflectors n1; clients n3,n4
    n3 n4: tunnels none; pods None; sessions with 3 of 3 nodes; reflectors n1,n2
    topology waits: n1 has not reported its sessions; n2 has not reported its sessions; reflector n1 has not reported that n3 is its client
    reports are awaited
    topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions
    no more: topology waits: n1 has not reported its sessions; n2 has not reported its sessions; reflector n1 has not reported that n3 is its client
> block n4 172.25.0.192/26 pods
> node n5 10.0.0.5
    n1: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; reflectors n2; clients n3,n4,n5
    n2: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; reflectors n1; clients n3,n4,n5
    n3 n4 n5: tunnels none; pods None; sessions with 4 of 4 nodes; reflectors n1,n2
> block n5 172.25.1.0/26 pods
> connected n1 n2 n3
    n3 n4 n5: tunnels none; pods None; sessions with 2 of 4 nodes; reflectors n1,n2
    no more: topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions
    no more: reports are awaited
> agents n1 n2 n3 n4 n5
> agents n1 n2 n3 n4 n5

# A reflector fails: another learns everything as a client, and then takes its place.
# Each node keeps what it has until the new one has told it everything.
> ready n1 Unknown
    n1 n3 n4 n5: tunnels none; pods None; sessions with 1 of 4 nodes; reflectors n2
    n2: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; clients n1,n3,n4,n5
    reports are awaited
> agents n2 n3 n4 n5
    n1 n4 n5: tunnels none; pods None; sessions with 2 of 4 nodes; reflectors n2,n3
    n2: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; reflectors n3; clients n1,n4,n5
    n3: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; reflectors n2; clients n1,n4,n5
    no more: reports are awaited
> agents n2 n3 n4 n5
> agents n2 n3 n4 n5
> agents n2 n3 n4 n5

# It comes back and is a client like others.
> ready n1 True
> agents n1 n2 n3 n4 n5
> agents n1 n2 n3 n4 n5

# A person chooses others: they take over one after the other.
> label n4 rr yes
> label n5 rr yes
> reflectors 2 3 labelled
    n1: tunnels none; pods None; sessions with 2 of 4 nodes; reflectors n2,n3
    n2: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; reflectors n3,n4; clients n1,n5
    n3: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; reflectors n2,n4; clients n1,n5
    n4: tunnels none; pods None; sessions with 3 of 4 nodes; reflector; reflectors n2,n3; clients n5
    n5: tunnels none; pods None; sessions with 3 of 4 nodes; reflectors n2,n3,n4
    reports are awaited
    n1 n5: tunnels none; pods None; sessions with 3 of 4 nodes; reflectors n2,n3,n4
    n4: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; reflectors n2,n3; clients n1,n5
> agents n1 n2 n3 n4 n5
    n1 n5: tunnels none; pods None; sessions with 1 of 4 nodes; reflectors n4
    n2: tunnels none; pods None; sessions with 2 of 4 nodes; reflector; reflectors n3,n4
    n3: tunnels none; pods None; sessions with 2 of 4 nodes; reflector; reflectors n2,n4
    n4: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; clients n1,n2,n3,n5
> agents n1 n2 n3 n4 n5
    n1 n2 n3 n5: tunnels none; pods None; sessions with 1 of 4 nodes; reflectors n4
    n1 n2 n3: tunnels none; pods None; sessions with 2 of 4 nodes; reflectors n4,n5
    n4: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; reflectors n5; clients n1,n2,n3
    n5: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; reflectors n4; clients n1,n2,n3
    no more: reports are awaited
> agents n1 n2 n3 n4 n5
> agents n1 n2 n3 n4 n5
> agents n1 n2 n3 n4 n5
> agents n1 n2 n3 n4 n5
> agents n1 n2 n3 n4 n5

# A selector that nobody matches changes nothing.
> unlabel n4 rr
    n1 n2 n3: tunnels none; pods None; sessions with 1 of 4 nodes; reflectors n5
    n4: tunnels none; pods None; sessions with 1 of 4 nodes; reflector; reflectors n5
    n5: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; clients n1,n2,n3,n4
    reports are awaited
> unlabel n5 rr

# Back to a mesh.
> topology Mesh
    n1 n2 n3: tunnels none; pods None; sessions with 4 of 4 nodes; reflectors n5
    n4: tunnels none; pods None; sessions with 4 of 4 nodes; reflector; reflectors n5
    topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions; and 2 more
> agents n1 n2 n3 n4 n5
    n1 n2 n3 n4 n5: tunnels none; pods None; sessions with 4 of 4 nodes
    no more: topology waits: n1 has not reported its sessions; n2 has not reported its sessions; n3 has not reported its sessions; and 2 more
    no more: reports are awaited
> agents n1 n2 n3 n4 n5
