package cni

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-net/godwit/ipam"
)

// The error codes of the CNI specification, and Godwit's own from 100 on.
const (
	CodeVersion      = 1   // the configuration's cniVersion is not supported
	CodeUnsupported  = 2   // a field of the configuration is not supported
	CodeUnknown      = 3   // the container is not known
	CodeEnvironment  = 4   // an environment variable is missing or makes no sense
	CodeIO           = 5   // the kernel refused something
	CodeDecode       = 6   // the configuration is not JSON
	CodeConfig       = 7   // the configuration makes no sense
	CodeTryAgain     = 11  // the agent is not ready, or did not finish in time
	CodeNotAvailable = 50  // STATUS: ADD can't be served
	CodeInternal     = 100 // a bug
	CodeExhausted    = 101 // no address can be had
	CodeExists       = 102 // the container has the interface already
	CodeDiffers      = 103 // CHECK: the attachment is not as ADD left it
)

// Error is an error of the CNI specification.
type Error struct {
	Code    uint32
	Msg     string // what is the matter, in a few words
	Details string // why, and what to do
	cause   error
}

func (e *Error) Error() string {
	if e.Details == "" {
		return fmt.Sprintf("%s (code %d)", e.Msg, e.Code)
	}
	return fmt.Sprintf("%s (code %d): %s", e.Msg, e.Code, e.Details)
}

func (e *Error) Unwrap() error { return e.cause }

func errorf(code uint32, details, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...), Details: details}
}

// wrap makes an Error of what went wrong while something was done.
func wrap(code uint32, doing string, err error) *Error {
	var already *Error
	switch {
	case errors.As(err, &already):
		return already
	case errors.Is(err, context.Canceled):
		return &Error{CodeTryAgain, doing + " was cancelled", "the runtime or the agent's end cut the call short; nothing was left behind", err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{CodeTryAgain, doing + " took too long", err.Error(), err}
	}
	return &Error{code, doing + " failed", err.Error(), err}
}

// allocationError is what a failed allocation is to the runtime.
func allocationError(err error) *Error {
	var exhausted *ipam.ExhaustedError
	if errors.As(err, &exhausted) {
		return &Error{
			Code: CodeExhausted, Msg: fmt.Sprintf("no free address in IP pools %q", exhausted.Pools),
			Details: exhausted.Reason + "; `godwitctl status` shows how full they are", cause: err,
		}
	}
	return wrap(CodeTryAgain, "finding an address", err)
}
