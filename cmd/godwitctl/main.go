// Godwitctl shows what Godwit's network is doing. Called kubectl-godwit and put
// into the PATH, it is `kubectl godwit`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/godwit-net/godwit/ctl"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	env := ctl.Env{
		Out:     os.Stdout,
		Err:     os.Stderr,
		Program: os.Args[0],
		Color:   term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
		Now:     time.Now,
	}
	status := ctl.Run(ctx, env, os.Args[1:])
	stop()
	os.Exit(status)
}
