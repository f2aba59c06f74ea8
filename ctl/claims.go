package ctl

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// Claim is an address that follows its pod.
type Claim struct {
	Address   string `json:"address"`
	Namespace string `json:"namespace"`
	For       string `json:"for"`  // the only pod that may have it; empty: any of the namespace
	Pod       string `json:"pod"`  // that has it; empty: none
	Node      string `json:"node"` // where it is
	Ready     bool   `json:"ready"`
	Reason    string `json:"reason"`
	Message   string `json:"message"`
}

func (r *Report) addClaim(claim *v1alpha1.IPClaim) {
	cond := readyCondition(claim.Status.Conditions)
	c := Claim{
		Address: claim.Spec.Address, Namespace: claim.Spec.Namespace, For: claim.Spec.PodName,
		Pod: claim.Status.PodName, Node: claim.Status.NodeName,
		Ready: cond.Status == metav1.ConditionTrue, Reason: cond.Reason, Message: cond.Message,
	}
	r.Claims = append(r.Claims, c)
	if !c.Ready {
		r.problem("IPClaim", claim.Name, c.Reason, c.Message)
	}
}

// claims shows the claims, where there are any.
func (s *screen) claims(claims []Claim) {
	if len(claims) == 0 {
		return
	}
	t := table{columns: []column{{title: "ADDRESS"}, {title: "NAMESPACE"}, {title: "FOR"}, {title: "POD"}, {title: "NODE"}, {title: "STATUS"}}}
	held, ok, hidden := 0, true, 0
	for _, c := range claims {
		if c.Pod != "" {
			held++
		}
		ok = ok && c.Ready
		if c.Ready && !s.all && len(claims) > maxRows {
			hidden++
			continue
		}
		t.add(text(c.Address), text(c.Namespace), text(orDash(c.For)), text(orDash(c.Pod)), text(orDash(c.Node)), state(c.Ready, c.Reason))
	}
	s.section("Claims", fmt.Sprintf("%d of %d in use%s", held, len(claims), hint(hidden, "those that are in order are")), ok, t)
}
