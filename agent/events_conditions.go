package agent

import (
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/godwit-net/godwit/api/v1alpha1"
)

// toldConditions are the conditions of whose changes events tell, with the reasons
// of the events that they are false. Of sessions the events of each session tell.
func toldConditions() map[string]string {
	return map[string]string{
		v1alpha1.ConditionPlanApplied:  "PlanNotApplied",
		v1alpha1.ConditionTunnelsReady: "TunnelsNotReady",
		v1alpha1.ConditionHostSound:    "HostNotSound",
	}
}

// toldCondition is what was seen of a condition, and told.
type toldCondition struct {
	seen, told string // messages, of False; empty: it is not
	limit      *rate.Limiter
}

// lookConditions tells of what is wrong when two looks have found the same, since
// much is wrong for a moment while a plan is carried out, and when it is over.
func (t *teller) lookConditions(all []metav1.Condition, now time.Time) {
	if t.events == nil {
		return
	}
	reasons := toldConditions()
	there := map[string]bool{}
	for i := range all {
		c := &all[i]
		if reasons[c.Type] == "" {
			continue
		}
		there[c.Type] = true
		known := t.conditions[c.Type]
		if known == nil {
			known = &toldCondition{limit: rate.NewLimiter(rate.Every(peerEventInterval), peerEventBurst)}
			t.conditions[c.Type] = known
		}
		wrong := ""
		if c.Status == metav1.ConditionFalse {
			wrong = c.Reason + ": " + c.Message
		}
		if wrong == known.seen && wrong != known.told && known.limit.AllowN(now, 1) && t.all.AllowN(now, 1) {
			if known.told = wrong; wrong != "" {
				t.events.Event(t.node, corev1.EventTypeWarning, reasons[c.Type], clip(wrong, maxEvent))
			} else {
				t.events.Event(t.node, corev1.EventTypeNormal, c.Type, "what was wrong is over")
			}
		}
		known.seen = wrong
	}
	for kind := range t.conditions {
		if !there[kind] {
			delete(t.conditions, kind)
		}
	}
}

// maxEvent is how long the API lets the message of an event be, in bytes.
const maxEvent = 1024
