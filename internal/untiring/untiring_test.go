package untiring

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// server is one that is away until a time, and counts who asks.
type server struct {
	back  time.Time
	err   error // while it is away
	other error // once, when it is back
	asked int
	lists []time.Time
}

func (s *server) listWatch() *cache.ListWatch {
	ask := func() error {
		s.asked++
		if time.Now().Before(s.back) {
			return s.err
		}
		err := s.other
		s.other = nil
		return err
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			if err := ask(); err != nil {
				return nil, err
			}
			s.lists = append(s.lists, time.Now())
			return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}}, nil
		},
		WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if o.SendInitialEvents != nil {
				return nil, apierrors.NewBadRequest("it only lists")
			}
			if err := ask(); err != nil {
				return nil, err
			}
			return watch.NewFake(), nil
		},
	}
}

var (
	errRefused = errors.New("connection refused")
	pods       = schema.GroupResource{Resource: "pods"}
)

// After an outage of an hour an informer has its list within seconds, and has
// asked with pauses meanwhile.
func TestReturn(t *testing.T) {
	for name, err := range map[string]error{
		"refused":     errRefused,
		"unavailable": apierrors.NewServiceUnavailable("starting"),
		"old token":   apierrors.NewUnauthorized("expired"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{back: time.Now().Add(time.Hour), err: err}
				var told []error
				lw := New(s.listWatch(), Options{Tell: func(err error) { told = append(told, err) }})
				if _, err := lw.ListWithContext(t.Context(), metav1.ListOptions{}); err != nil {
					t.Fatal(err)
				}
				if took := s.lists[0].Sub(s.back); took > most {
					t.Errorf("the list came %v after the server's return, want %v at most", took, most)
				}
				if least, at := int(time.Hour/most), s.asked; at < least || at > 2*least+10 {
					t.Errorf("it asked %d times in an hour, want between %d and twice that", at, least)
				}
				if len(told) != 2 || told[0] == nil || told[1] != nil {
					t.Errorf("it told %v, want the begin and the end", told)
				}
			})
		})
	}
}

// Whoever knows of somebody who asks already does not ask as well, but after a long
// while; and hears of the return at every moment, also shortly before that.
func TestSomebodyElseAsks(t *testing.T) {
	for away := 10 * time.Second; away < 40*time.Second; away += 100 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			s := &server{back: time.Now().Add(away), err: errRefused}
			back := make(chan struct{})
			time.AfterFunc(away, func() { close(back) })
			lw := New(s.listWatch(), Options{Away: func() <-chan struct{} { return back }})
			if _, err := lw.ListWithContext(t.Context(), metav1.ListOptions{}); err != nil {
				t.Fatal(err)
			}
			if most := 2 + int(away/blind); s.asked > most || s.lists[0].Sub(s.back) > first {
				t.Errorf("away for %v: asked %d times, the last %v after the return; want %d, %v", away, s.asked, s.lists[0].Sub(s.back), most, first)
			}
		})
	}
}

// Answers are the informer's to deal with.
func TestAnswersPass(t *testing.T) {
	ahead := apierrors.NewTimeoutError("Too large resource version", 1)
	ahead.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge}}
	for _, err := range []error{
		ahead, apierrors.NewResourceExpired("too old"), apierrors.NewForbidden(pods, "", errRefused), apierrors.NewNotFound(pods, "p"),
	} {
		s := &server{other: err}
		if _, got := New(s.listWatch(), Options{}).WatchWithContext(t.Context(), metav1.ListOptions{}); !errors.Is(got, err) || s.asked != 1 {
			t.Errorf("%v became %v after %d tries", err, got, s.asked)
		}
	}
}

// The end of the context is the end of it.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		s := &server{back: time.Now().Add(time.Hour), err: errRefused}
		begin := time.Now()
		if _, err := New(s.listWatch(), Options{}).ListWithContext(ctx, metav1.ListOptions{}); err == nil || time.Since(begin) != 3*time.Second {
			t.Errorf("it ended with %v after %v", err, time.Since(begin))
		}
	})
}

// An informer whose server comes and goes for a minute has what is new within
// seconds after that. With client-go's own pauses it takes up to a minute.
func TestFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{err: errRefused}
		w := watch.NewFake()
		lw := s.listWatch()
		lw.WatchFuncWithContext = func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if o.SendInitialEvents != nil {
				return nil, apierrors.NewBadRequest("it only lists")
			}
			if time.Now().Before(s.back) {
				return nil, errRefused
			}
			w = watch.NewFake()
			return w, nil
		}
		informer := cache.NewSharedIndexInformer(New(lw, Options{}), &corev1.Pod{}, 0, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); informer.RunWithContext(ctx) }()
		defer func() { cancel(); <-done }()
		cache.WaitForCacheSync(ctx.Done(), informer.HasSynced)
		for range 10 {
			synctest.Wait()
			s.back = time.Now().Add(3 * time.Second)
			before := w
			before.Stop()
			time.Sleep(6 * time.Second)
			synctest.Wait()
			if w == before {
				t.Fatal("the informer did not watch again within 3 s of the server's return")
			}
		}
	})
}
