package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/godwit-net/godwit/internal/untiring"
)

// What the watches of Secrets and of other nodes' blocks ask for while the API
// server is away for an hour is answered soon after its return: by themselves, or
// sooner and with hardly a question, when the watch of the plan knows.
func TestAskedForAnHour(t *testing.T) {
	for _, tt := range []struct {
		name  string
		known bool
		limit time.Duration
		most  int // questions
	}{{"found out by itself", false, 2 * time.Second, 4000}, {"told", true, 500 * time.Millisecond, 300}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				back := time.Now().Add(time.Hour)
				asked := 0
				var answered time.Time
				ask := func() error {
					asked++
					if time.Now().Before(back) {
						return errors.New("connection refused")
					}
					answered = time.Now()
					return nil
				}
				scheme := runtime.NewScheme()
				if err := corev1.AddToScheme(scheme); err != nil {
					t.Fatal(err)
				}
				server := fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(interceptor.Funcs{
					List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return ask() },
					Watch: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) (watch.Interface, error) {
						return watch.NewFake(), ask()
					},
				}).Build()
				gone := &absence{}
				c := untiringClient{server, untiring.Options{Away: gone.away}}
				if tt.known {
					gone.begin()
					time.AfterFunc(time.Hour, gone.end)
				}
				if err := c.List(t.Context(), &corev1.SecretList{}); err != nil {
					t.Fatal(err)
				}
				if took := answered.Sub(back); took > tt.limit || asked > tt.most {
					t.Errorf("answered %v after the return, of %d questions; want %v, of %d", took, asked, tt.limit, tt.most)
				}
				back, asked = time.Now().Add(time.Hour), 0
				if tt.known {
					gone.begin()
					time.AfterFunc(time.Hour, gone.end)
				}
				if _, err := c.Watch(t.Context(), &corev1.SecretList{}); err != nil {
					t.Fatal(err)
				}
				if took := answered.Sub(back); took > tt.limit || asked > tt.most {
					t.Errorf("watching %v after the return, of %d questions; want %v, of %d", took, asked, tt.limit, tt.most)
				}
			})
		})
	}
}
