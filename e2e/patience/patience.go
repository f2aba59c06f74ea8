// Package patience stretches the deadlines of the lab and of its tests, for
// machines that are slower than those the deadlines were chosen for, such as
// emulated ones.
//
// It is for how long to wait until something is given up, not for how fast
// something must be.
package patience

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

// Variable is the environment variable with the factor.
const Variable = "GODWIT_PATIENCE"

// most is more patience than anybody has.
const most = 1000

// Factor is by how much deadlines are stretched; anything below 1 is 1.
type Factor float64

// FromEnvironment returns the factor of the environment, 1 if it has none.
func FromEnvironment() (Factor, error) {
	text := os.Getenv(Variable)
	if text == "" {
		return 1, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f >= 1 && f <= most) { // so that NaN is none
		return 1, fmt.Errorf("%s=%q: want a number from 1 to %d", Variable, text, most)
	}
	return Factor(f), nil
}

// Times stretches a deadline.
func (f Factor) Times(d time.Duration) time.Duration {
	return time.Duration(float64(d) * min(max(float64(f), 1), most))
}
