// client PROGRAM [CLIENT_ID]: as clients.py, for go-mssqldb.
package main

import (
	"database/sql"
	"fmt"
	"os"

	"github.com/microsoft/go-mssqldb/azuread"
)

func main() {
	dsn := "sqlserver://"
	if len(os.Args) > 2 {
		dsn += os.Args[2] + "@"
	}
	database, err := sql.Open(azuread.DriverName, dsn+"server.database.windows.net?encrypt=strict&fedauth=ActiveDirectoryManagedIdentity")
	if err == nil {
		err = database.Ping()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("hello")
}
