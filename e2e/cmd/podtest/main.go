// Command podtest is what runs in the pods of the tests' cluster, and all that
// their image holds. `kubectl exec` starts its clients.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/godwit-net/godwit/e2e/podtest"
)

const usage = `usage: podtest pause              wait for a signal
       podtest serve              HTTP at port 8080: the pod's name; UDP at port 5353: DNS, the pod's
                                  name as TXT record; TCP and UDP at port 7007: an echo
       podtest get URL...         print what servers answer, one in a line
       podtest dns ADDR N         ask a name server N times; print the answers, one in a line
       podtest flow ADDR...       send 1000 datagrams a second to the echo of each address until the
                                  standard input ends; print a line at the start, and a report
       podtest stream ADDR...     the same, 100 messages a second by a TCP connection`

// longest is for how long a flow lasts whose end nobody asks for.
const longest = 15 * time.Minute

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
	if len(args) == 0 {
		return errors.New(usage)
	}
	switch verb, args := args[0], args[1:]; {
	case verb == "pause" && len(args) == 0:
		<-ctx.Done()
		return nil
	case verb == "serve" && len(args) == 0:
		return podtest.Serve(ctx)
	case verb == "get" && len(args) > 0:
		for _, url := range args {
			if err := show(podtest.Get(ctx, url)); err != nil {
				return err
			}
		}
		return nil
	case verb == "dns" && len(args) == 2:
		n, err := strconv.Atoi(args[1])
		for range n {
			err = errors.Join(err, show(podtest.Resolve(ctx, args[0])))
		}
		return err
	case verb == "flow" && len(args) > 0:
		return send(ctx, args, podtest.Datagrams)
	case verb == "stream" && len(args) > 0:
		return send(ctx, args, podtest.Stream)
	}
	return errors.New(usage)
}

func show(text string, err error) error {
	if err == nil {
		_, err = fmt.Println(text)
	}
	return err
}

// send sends until the standard input ends, and prints a line at the start and the
// report in JSON at the end.
func send(ctx context.Context, addresses []string, way func(context.Context, string) (podtest.Flow, error)) error {
	ctx, stop := context.WithTimeout(ctx, longest)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	fmt.Println("sending")
	report, err := podtest.Send(ctx, addresses, way)
	return errors.Join(json.NewEncoder(os.Stdout).Encode(report), err)
}
