// An application with one of the Go libraries: azidentity, MSAL or adal. It asks once for each line of its input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/go-autorest/autorest/adal"
	msal "github.com/AzureAD/microsoft-authentication-library-for-go/apps/managedidentity"
)

type options struct {
	Credential string `json:"credential"`
	ClientID   string `json:"client_id"`
	ResourceID string `json:"resource_id"`
}

type question struct {
	Scope  string `json:"scope"`
	Claims string `json:"claims"`
}

type asking func(ctx context.Context, asked question) (string, error)

func resource(scope string) string {
	return strings.TrimSuffix(scope, "/.default")
}

func azidentityLibrary(options options) (asking, error) {
	var credential azcore.TokenCredential
	var err error
	if options.Credential == "default" {
		credential, err = azidentity.NewDefaultAzureCredential(nil)
	} else {
		managed := azidentity.ManagedIdentityCredentialOptions{}
		if options.ClientID != "" {
			managed.ID = azidentity.ClientID(options.ClientID)
		} else if options.ResourceID != "" {
			managed.ID = azidentity.ResourceID(options.ResourceID)
		}
		credential, err = azidentity.NewManagedIdentityCredential(&managed)
	}
	return func(ctx context.Context, asked question) (string, error) {
		token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{asked.Scope}, Claims: asked.Claims})
		return token.Token, err
	}, err
}

func msalLibrary(options options) (asking, error) {
	var identity msal.ID = msal.SystemAssigned()
	if options.ClientID != "" {
		identity = msal.UserAssignedClientID(options.ClientID)
	} else if options.ResourceID != "" {
		identity = msal.UserAssignedResourceID(options.ResourceID)
	}
	client, err := msal.New(identity)
	return func(ctx context.Context, asked question) (string, error) {
		var more []msal.AcquireTokenOption
		if asked.Claims != "" {
			more = append(more, msal.WithClaims(asked.Claims))
		}
		result, err := client.AcquireToken(ctx, resource(asked.Scope), more...)
		return result.AccessToken, err
	}, err
}

func adalLibrary(options options) (asking, error) {
	return func(ctx context.Context, asked question) (string, error) {
		token, err := adal.NewServicePrincipalTokenFromManagedIdentity(resource(asked.Scope), &adal.ManagedIdentityOptions{
			ClientID:           options.ClientID,
			IdentityResourceID: options.ResourceID,
		})
		if err != nil {
			return "", err
		}
		// One try, so that a refusal is told at once.
		token.MaxMSIRefreshAttempts = 1
		err = token.RefreshWithContext(ctx)
		return token.OAuthToken(), err
	}, nil
}

func main() {
	libraries := map[string]func(options) (asking, error){
		"azidentity for Go": azidentityLibrary,
		"MSAL for Go":       msalLibrary,
		"adal":              adalLibrary,
	}
	var options options
	if err := json.Unmarshal([]byte(os.Args[2]), &options); err != nil {
		panic(err)
	}
	ask, err := libraries[os.Args[1]](options)
	if err != nil {
		panic(err)
	}
	answers := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		if token, err := ask(context.Background(), asked); err != nil {
			_ = answers.Encode(map[string]string{"error": fmt.Sprint(err)})
		} else {
			_ = answers.Encode(map[string]string{"token": token})
		}
	}
}
