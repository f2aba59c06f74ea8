package controller

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/godwit-net/godwit/api/v1alpha1"
	"github.com/godwit-net/godwit/internal/apitest"
)

// steps drives a releaser with a clock and two views of the cluster: the cache,
// which may lag behind, and the live one.
type steps struct {
	*releaser
	t       *testing.T
	cache   client.Client
	actual  client.Client
	clock   time.Time
	freed   []string
	options []client.DeleteOptions
	events  *events.FakeRecorder
}

// hears is what n2 reports of n1's blocks: that it hears of those named.
func hears(announced ...string) *v1alpha1.NodeNetwork {
	nn := network("n2")
	nn.Status.ObservedGeneration = 1
	for _, cidr := range []string{"172.25.0.0/26", "172.25.0.64/26"} {
		nn.Status.DepartedBlocks = append(nn.Status.DepartedBlocks, v1alpha1.DepartedBlock{CIDR: cidr, Announced: slices.Contains(announced, cidr)})
	}
	return nn
}

// answer lets n2 report to a view of the cluster.
func (s *steps) answer(view client.Client, nn *v1alpha1.NodeNetwork) {
	s.t.Helper()
	old := network("n2")
	if err := view.Get(s.t.Context(), client.ObjectKeyFromObject(old), old); err != nil {
		s.t.Fatal(err)
	}
	old.Status = nn.Status
	if err := view.Update(s.t.Context(), old); err != nil {
		s.t.Fatal(err)
	}
}

func newSteps(t *testing.T, live interceptor.Funcs) *steps {
	t.Helper()
	s := &steps{t: t, clock: time.Unix(1e9, 0)}
	scheme := apitest.Scheme(t)
	n2 := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}
	blocks := []client.Object{block("172.25.0.0/26", "p", "n1"), block("172.25.0.64/26", "p", "n1"), block("172.25.1.0/26", "p", "n2")}
	s.cache = fake.NewClientBuilder().WithScheme(scheme).WithObjects(append(blocks, network("n1"), n2, hears())...).
		WithIndex(&v1alpha1.IPBlock{}, nodeNameField, func(o client.Object) []string {
			return []string{o.(*v1alpha1.IPBlock).Spec.NodeName}
		}).
		WithInterceptorFuncs(interceptor.Funcs{
			Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
				var o client.DeleteOptions
				s.options = append(s.options, *o.ApplyOptions(opts))
				s.freed = append(s.freed, obj.GetName())
				return c.Delete(ctx, obj)
			},
		}).Build()
	s.actual = interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).WithObjects(hears()).Build(), live)
	s.events = events.NewFakeRecorder(10)
	s.releaser = newReleaser(s.cache, s.actual, &recorder{s.events}, 5*time.Minute)
	s.now = func() time.Time { return s.clock }
	return s
}

// at moves the clock and does the work on n1. It returns after how long the work
// is to be done again.
func (s *steps) at(d time.Duration) time.Duration {
	s.t.Helper()
	s.clock = time.Unix(1e9, 0).Add(d)
	res, err := s.Reconcile(s.t.Context(), requestFor("n1"))
	if err != nil {
		s.t.Fatal(err)
	}
	return res.RequeueAfter
}

func (s *steps) wantFreed(want ...string) {
	s.t.Helper()
	if !slices.Equal(s.freed, want) {
		s.t.Errorf("freed %q, want %q", s.freed, want)
	}
}

func n1() *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}} }

func TestReleaseAfterDelay(t *testing.T) {
	s := newSteps(t, interceptor.Funcs{})
	if again := s.at(0); again != 5*time.Minute {
		t.Errorf("first look: again after %s, want 5m", again)
	}
	if again := s.at(4*time.Minute + 59*time.Second); again != time.Second {
		t.Errorf("a second before the end: again after %s, want 1s", again)
	}
	s.wantFreed()
	s.at(5 * time.Minute)
	s.wantFreed("n1", "172-25-0-0-26", "172-25-0-64-26")
	for i, o := range s.options {
		if o.Preconditions == nil || o.Preconditions.UID == nil || i > 0 && o.Preconditions.ResourceVersion == nil {
			t.Errorf("deletion %d was without preconditions: %+v", i, o)
		}
	}
	s.at(6 * time.Minute)
	if len(s.absence) != 0 {
		t.Errorf("remembers %v, want nothing once all is freed", s.absence)
	}
}

// A node that comes and goes again within a moment was there: the time is counted
// anew, although no work saw it.
func TestReleaseCountsAnew(t *testing.T) {
	s := newSteps(t, interceptor.Funcs{})
	s.at(0)
	s.nodeEvents().Create(t.Context(), event.CreateEvent{Object: n1()}, nil)
	s.at(5 * time.Minute)
	s.wantFreed()
	s.at(10 * time.Minute)
	s.wantFreed("n1", "172-25-0-0-26", "172-25-0-64-26")
}

func TestReleaseOfNodeThatIsThere(t *testing.T) {
	s := newSteps(t, interceptor.Funcs{})
	s.at(0)
	if err := s.cache.Create(t.Context(), n1()); err != nil {
		t.Fatal(err)
	}
	if again := s.at(time.Hour); again != 0 || len(s.absence) != 0 {
		t.Errorf("again after %s, remembering %v; want never and nothing", again, s.absence)
	}
	s.wantFreed()
}

// The cache lags behind: the node is back, and only the live read knows.
func TestReleaseReadsLive(t *testing.T) {
	s := newSteps(t, interceptor.Funcs{})
	s.at(0)
	if err := s.actual.Create(t.Context(), n1()); err != nil {
		t.Fatal(err)
	}
	if again := s.at(time.Hour); again != 5*time.Minute {
		t.Errorf("again after %s, want 5m", again)
	}
	s.wantFreed()
	if err := s.actual.Delete(t.Context(), n1()); err != nil {
		t.Fatal(err)
	}
	s.at(time.Hour + time.Minute)
	s.wantFreed() // it was there a minute ago
	s.at(time.Hour + 6*time.Minute)
	s.wantFreed("n1", "172-25-0-0-26", "172-25-0-64-26")
}

// Without an answer of the API server nothing is freed. A node that comes back
// between two deletions keeps the rest.
func TestReleaseInDoubt(t *testing.T) {
	var answer error
	reads := 0
	s := newSteps(t, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if answer != nil {
				return answer
			}
			if _, ok := obj.(*corev1.Node); !ok {
				return c.Get(ctx, key, obj, opts...)
			}
			if reads++; reads == 3 {
				return nil
			}
			return c.Get(ctx, key, obj, opts...)
		},
	})
	s.at(0)
	answer = errors.New("no answer")
	s.clock = s.clock.Add(time.Hour)
	if _, err := s.Reconcile(t.Context(), requestFor("n1")); !errors.Is(err, answer) {
		t.Errorf("error %v, want that there is no answer", err)
	}
	s.wantFreed()
	answer = nil
	s.at(2 * time.Hour)
	s.wantFreed("n1", "172-25-0-0-26")
}

// The time counts from when the last node has stopped hearing of the blocks, and
// anew when one hears of them again.
func TestReleaseWhenNobodyAnnounces(t *testing.T) {
	s := newSteps(t, interceptor.Funcs{})
	s.answer(s.cache, hears("172.25.0.64/26"))
	s.at(0)
	s.at(5 * time.Minute)
	s.at(10 * time.Minute)
	s.wantFreed()
	want := "Warning BlocksKept Node n1 was deleted, but its blocks are still announced: 172.25.0.64/26 (heard by n2). They are freed when nobody " +
		"has announced them for 5m0s: end godwit-agent on that machine, or register its Node again"
	if len(s.events.Events) != 1 {
		t.Fatalf("%d events, want one", len(s.events.Events))
	}
	if got := <-s.events.Events; got != want {
		t.Errorf("event %q, want %q", got, want)
	}

	s.answer(s.cache, hears())
	if again := s.at(20 * time.Minute); again != 5*time.Minute {
		t.Errorf("when nobody announces the blocks any more: again after %s, want 5m", again)
	}
	s.answer(s.cache, hears("172.25.0.0/26"))
	s.at(24 * time.Minute)
	s.answer(s.cache, hears())
	s.at(25 * time.Minute)
	s.at(29*time.Minute + 59*time.Second)
	s.wantFreed()
	s.at(30 * time.Minute)
	s.wantFreed("n1", "172-25-0-0-26", "172-25-0-64-26")
}

// The cache lags behind: the blocks are announced, and only the live read knows.
func TestReleaseReadsAnswersLive(t *testing.T) {
	s := newSteps(t, interceptor.Funcs{})
	s.at(0)
	s.answer(s.actual, hears("172.25.0.0/26"))
	s.at(time.Hour)
	s.wantFreed()
	s.answer(s.actual, hears())
	s.at(time.Hour + time.Minute)
	s.wantFreed() // it was announced a minute ago
	s.at(time.Hour + 6*time.Minute)
	s.wantFreed("n1", "172-25-0-0-26", "172-25-0-64-26")
}

// When nobody answers, nothing is known, and nothing is freed.
func TestReleaseWithoutAnswers(t *testing.T) {
	s := newSteps(t, interceptor.Funcs{})
	s.answer(s.cache, network("n2"))
	s.at(0)
	s.at(time.Hour)
	s.wantFreed()
	if len(s.events.Events) != 1 {
		t.Errorf("%d events, want one", len(s.events.Events))
	}
	s.answer(s.cache, hears())
	s.at(time.Hour + time.Minute)
	s.wantFreed()
	s.at(time.Hour + 6*time.Minute)
	s.wantFreed("n1", "172-25-0-0-26", "172-25-0-64-26")
}
