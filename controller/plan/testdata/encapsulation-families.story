# An IPv6 pool is carried by VXLAN over IPv6, between nodes that have an IPv6
# address; IPIP is for nodes with an IPv4 address.
> node n1 10.0.0.1 fd00::1
    n1: tunnels none; no pools; sessions with 0 of 0 nodes
> node n2 10.0.0.2 fd00::2
    n1 n2: tunnels none; no pools; sessions with 1 of 1 nodes
> node n4 10.0.0.4
    n1 n2 n4: tunnels none; no pools; sessions with 2 of 2 nodes
> node n6 fd00::6
    n1 n2: tunnels none; no pools; sessions with 3 of 3 nodes
    n4 n6: tunnels none; no pools; sessions with 2 of 3 nodes
> pool four 172.25.0.0/16 IPIP
    n1 n2: tunnels IPIP; four IPIP; sessions with 3 of 3 nodes
    n4: tunnels IPIP; four IPIP; sessions with 2 of 3 nodes
    n6: tunnels none; four IPIP; sessions with 2 of 3 nodes
    pool four: True Applied: the plans of nodes have IPIP
> pool six fd00:25::/48 None
    n1 n2: tunnels IPIP; four IPIP, six None; sessions with 3 of 3 nodes
    n4: tunnels IPIP; four IPIP, six None; sessions with 2 of 3 nodes
    n6: tunnels none; four IPIP, six None; sessions with 2 of 3 nodes
    pool six: True Applied: the plans of nodes have None
> agents n1 n2 n4 n6
> pool six fd00:25::/48 VXLAN
    n1 n2: tunnels IPIP,VXLAN; four IPIP, six None; sessions with 3 of 3 nodes
    n4: tunnels IPIP,VXLAN; four IPIP, six None; sessions with 2 of 3 nodes
    n6: tunnels VXLAN; four IPIP, six None; sessions with 2 of 3 nodes
    pool six: False WaitingForTunnels: nodes keep to None until all can do VXLAN: n1 has not reported godwit.vxlan6; n2 has not reported godwit.vxlan6; n6 has not reported godwit.vxlan6
    reports are awaited
> agents n1 n2 n4
    pool six: False WaitingForTunnels: nodes keep to None until all can do VXLAN: n6 has not reported godwit.vxlan6
> agents n6
    n1 n2: tunnels IPIP,VXLAN; four IPIP, six VXLAN; sessions with 3 of 3 nodes
    n4: tunnels IPIP,VXLAN; four IPIP, six VXLAN; sessions with 2 of 3 nodes
    n6: tunnels VXLAN; four IPIP, six VXLAN; sessions with 2 of 3 nodes
    pool six: True Applied: the plans of nodes have VXLAN
    no more: reports are awaited
> agents n1 n2 n4 n6

# The tunnels of VXLAN are there: the other pool can use them at once.
> pool four 172.25.0.0/16 VXLAN
    n1 n2: tunnels IPIP,VXLAN; four VXLAN, six VXLAN; sessions with 3 of 3 nodes
    n4: tunnels IPIP,VXLAN; four VXLAN, six VXLAN; sessions with 2 of 3 nodes
    n6: tunnels VXLAN; four VXLAN, six VXLAN; sessions with 2 of 3 nodes
    pool four: True Applied: the plans of nodes have VXLAN
    reports are awaited
> agents n1 n2 n4 n6
    n1 n2: tunnels VXLAN; four VXLAN, six VXLAN; sessions with 3 of 3 nodes
    n4 n6: tunnels VXLAN; four VXLAN, six VXLAN; sessions with 2 of 3 nodes
    no more: reports are awaited
> agents n1 n2 n4 n6

# The tunnels of a deleted pool go when nobody can send by them any more.
> nopool six
    n1 n2: tunnels VXLAN; four VXLAN; sessions with 3 of 3 nodes
    n4 n6: tunnels VXLAN; four VXLAN; sessions with 2 of 3 nodes
> agents n1 n2 n4 n6
> nopool four
    n1 n2: tunnels VXLAN; no pools; sessions with 3 of 3 nodes
    n4 n6: tunnels VXLAN; no pools; sessions with 2 of 3 nodes
    reports are awaited
> agents n1 n2 n4
> agents n6
    n1 n2: tunnels none; no pools; sessions with 3 of 3 nodes
    n4 n6: tunnels none; no pools; sessions with 2 of 3 nodes
    no more: reports are awaited
