// Command podtest is what runs in the pods of the tests' cluster: a server, and
// clients that `kubectl exec` starts. It is all that its image holds.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const usage = `usage: podtest pause            wait for a signal
       podtest serve            HTTP at port 8080: the pod's name; UDP at port 5353: an echo
       podtest get URL          print what a server answers
       podtest udp ADDR:PORT    send a datagram and print its echo
       podtest flow FOR ADDR... send 1000 datagrams a second for a time to the echo of
                                each address, and print how many came back`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "podtest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "pause":
		<-ctx.Done()
		return nil
	case len(args) == 1 && args[0] == "serve":
		return serve(ctx)
	case len(args) == 2 && args[0] == "get":
		return get(ctx, args[1])
	case len(args) == 2 && args[0] == "udp":
		return echo(ctx, args[1])
	case len(args) > 2 && args[0] == "flow":
		d, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		return flows(ctx, d, args[2:])
	}
	return errors.New(usage)
}

func serve(ctx context.Context) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	datagrams, err := lc.ListenPacket(ctx, "udp", ":5353")
	if err != nil {
		return err
	}
	go func() {
		for b := make([]byte, 2048); ; {
			n, from, err := datagrams.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = datagrams.WriteTo(b[:n], from)
		}
	}()
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, name)
	})}
	context.AfterFunc(ctx, func() { _ = server.Close(); _ = datagrams.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil) // #nosec G704 -- the test's own URL
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req) // #nosec G704 -- the test's own URL
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(os.Stdout, res.Body)
	return err
}

func echo(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprint(conn, "hello"); err != nil {
		return err
	}
	b := make([]byte, 64)
	n, err := conn.Read(b)
	fmt.Println(string(b[:n]))
	return err
}

// flow is what became of the datagrams to an address.
type flow struct {
	To       string `json:"to"`
	Sent     int    `json:"sent"`
	Received int    `json:"received"`
}

// report is what flow prints.
type report struct {
	Flows []flow `json:"flows"`
	// Overflows counts the datagrams that arrived in the pod meanwhile and that its
	// programs were too slow to take: the network has not lost them.
	Overflows int `json:"overflows"`
}

// flows prints a report of a flow to each address, in JSON.
func flows(ctx context.Context, d time.Duration, addresses []string) error {
	before, err := overflows()
	if err != nil {
		return err
	}
	list := make([]flow, len(addresses))
	errs := make([]error, len(addresses))
	var wg sync.WaitGroup
	for i, a := range addresses {
		wg.Go(func() { list[i], errs[i] = send(ctx, d, a) })
	}
	wg.Wait()
	after, err := overflows()
	errs = append(errs, err)
	return errors.Join(append(errs, json.NewEncoder(os.Stdout).Encode(report{list, after - before}))...)
}

// overflows reads how many datagrams found the buffer of their socket full, of
// the pod as a whole.
func overflows() (int, error) {
	raw, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, "RcvbufErrors"); i > 0 && i < len(fields) {
			return strconv.Atoi(fields[i])
		}
	}
	return 0, errors.New("/proc/net/snmp does not tell of RcvbufErrors")
}

func send(ctx context.Context, d time.Duration, address string) (flow, error) {
	const settle = 2 * time.Second // for the last echoes
	f := flow{To: address}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", address)
	if err != nil {
		return f, err
	}
	defer func() { _ = conn.Close() }()
	end := time.Now().Add(d)
	_ = conn.SetReadDeadline(end.Add(settle))
	got := make(chan int)
	go func() {
		n := 0
		for b := make([]byte, 64); ; n++ {
			if _, err := conn.Read(b); err != nil {
				if errors.Is(err, syscall.ECONNREFUSED) {
					n--
					continue
				}
				got <- n
				return
			}
		}
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	// A late tick is made up for, so that the rate holds on a busy machine.
	for start := time.Now(); time.Now().Before(end) && ctx.Err() == nil; <-tick.C {
		for due := int(time.Since(start) / time.Millisecond); f.Sent < due; f.Sent++ {
			if _, err := conn.Write([]byte("numbered datagram")); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
				return f, err
			}
		}
	}
	f.Received = <-got
	return f, nil
}
