package ipamtest_test

import (
	"testing"

	"github.com/godwit-net/godwit/ipam"
	"github.com/godwit-net/godwit/ipam/ipamtest"
)

func TestFakeStore(t *testing.T) {
	ipamtest.TestStore(t, func(testing.TB) ipam.BlockStore { return &ipamtest.Store{} })
}
