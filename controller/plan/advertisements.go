package plan

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// planAdvertisements works out how pools are announced. While a community is not
// known, a node keeps to how its plan has it so far; one that does not know the
// pool yet announces it with the communities that are known.
func (p *Plan) planAdvertisements() {
	for _, pl := range p.pools {
		asked := pl.obj.Spec.Advertise
		if asked == nil {
			continue
		}
		resolved := *asked
		resolved.Communities, pl.advertiseErr = p.communities.numbers(asked.Communities)
		pl.advertise = &resolved

		cond := metav1.Condition{
			Type: v1alpha1.ConditionAdvertisementApplied, Status: metav1.ConditionTrue,
			Reason: ReasonApplied, Message: "the plans of nodes have what advertise asks for",
		}
		if pl.advertiseErr != nil {
			cond.Status, cond.Reason = metav1.ConditionFalse, ReasonCommunityNotFound
			cond.Message = fmt.Sprintf("advertise.communities: %v: nodes announce the pool as before", pl.advertiseErr)
		}
		p.Pools[pl.obj.Name] = append(p.Pools[pl.obj.Name], cond)
	}
}
