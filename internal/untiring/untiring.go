// Package untiring lets informers notice within seconds that the API server is
// back, however long or often it was away. client-go's own pause between tries
// grows to a minute while the server is away, and also when it comes and goes; it
// shrinks only after two quiet minutes.
//
// Invariants:
//   - What the server answers reaches the informer, 410 Gone for one; only that
//     there is no answer, or that it can't be given now, does not.
//   - Between two tries there is a pause, which never is longer than most.
package untiring

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/watchlist"
)

const (
	first = 500 * time.Millisecond // about how long the first pause is
	most  = 2 * time.Second        // and the longest
	blind = 15 * time.Second       // how long somebody else's word is waited for
)

// Options are what may be said and asked during an outage.
type Options struct {
	// Tell is called with the error when an outage begins, and with nil when the
	// server answers again; nil: nobody listens.
	Tell func(err error)
	// Away returns a channel that is closed when the server is back, if somebody else
	// asks already, and nil if nobody does; nil: nobody does.
	Away func() <-chan struct{}
}

// ListerWatcher lists and watches, and asks again for as long as the server does
// not answer and the context lasts. An informer has one of its own.
type ListerWatcher struct {
	cache.ListerWatcher
	lw cache.ListerWatcherWithContext
	o  Options
}

// New returns lw, made untiring.
func New(lw cache.ListerWatcher, o Options) *ListerWatcher {
	return &ListerWatcher{ListerWatcher: lw, lw: cache.ToListerWatcherWithContext(lw), o: o}
}

// ListWithContext implements cache.ListerWithContext.
func (l *ListerWatcher) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	return Again(ctx, l.o, func() (runtime.Object, error) { return l.lw.ListWithContext(ctx, options) })
}

// WatchWithContext implements cache.WatcherWithContext.
func (l *ListerWatcher) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return Again(ctx, l.o, func() (watch.Interface, error) { return l.lw.WatchWithContext(ctx, options) })
}

// IsWatchListSemanticsUnSupported tells what client-go asks by that name.
func (l *ListerWatcher) IsWatchListSemanticsUnSupported() bool {
	return watchlist.DoesClientNotSupportWatchListSemantics(l.ListerWatcher)
}

// Again asks until there is an answer, which may be an error, or ctx ends.
func Again[T any](ctx context.Context, o Options, ask func() (T, error)) (T, error) {
	told := false
	for pause := first; ; pause = min(2*pause, most) {
		got, err := ask()
		if !noAnswer(err) || ctx.Err() != nil {
			if told && o.Tell != nil && ctx.Err() == nil {
				o.Tell(nil)
			}
			return got, err
		}
		if !told && o.Tell != nil {
			o.Tell(err)
		}
		told = true
		wait(ctx, o, pause)
	}
}

// wait waits until the next try.
func wait(ctx context.Context, o Options, pause time.Duration) {
	if o.Away != nil {
		if back := o.Away(); back != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(blind + spread(pause)):
				return
			case <-back:
				pause = first
			}
		}
	}
	select {
	case <-ctx.Done():
	case <-time.After(spread(pause)):
	}
}

// spread keeps clients that lost the server at once from all coming back at once.
func spread(pause time.Duration) time.Duration {
	return pause/2 + rand.N(pause/2) // #nosec G404 -- a spread
}

// noAnswer tells whether an error is none of the question, but of the server's
// being away, starting, or overloaded; or of a token that is too old, of which a
// newer one is to come.
func noAnswer(err error) bool {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return false
	case !errors.As(err, &status):
		return true
	case apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge):
		return false // the server was restored; informers list anew
	}
	return apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsUnauthorized(err)
}
