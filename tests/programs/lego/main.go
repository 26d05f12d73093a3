// client PROGRAM [CLIENT_ID]: as clients.py, for the part of lego that writes to Azure DNS. Modules of other parts cannot be had.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/go-acme/lego/v5/providers/dns/azuredns"
)

func main() {
	os.Setenv("AZURE_ZONE_NAME", "example.com")
	os.Setenv("LEGO_DISABLE_CNAME_SUPPORT", "true")
	if len(os.Args) > 2 {
		os.Setenv("AZURE_CLIENT_ID", os.Args[2])
	}
	provider, err := azuredns.NewDNSProvider()
	if err == nil {
		err = provider.Present(context.Background(), "example.com", "token", "key")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("hello")
}
