// clients.cjs PROGRAM [CLIENT_ID]: as clients.py, for the programs of Node.js.

const clients = {
    tedious(clientId) {
        const { Connection } = require("tedious");
        const type = "azure-active-directory-msi-vm";
        const connection = new Connection({
            server: "server.database.windows.net",
            authentication: { type, options: { clientId } },
            options: { encrypt: "strict" },
        });
        connection.connect((error) => {
            console.log(error ?? "hello");
            connection.close();
        });
    },
};

const [program, clientId] = process.argv.slice(2);
clients[program](clientId);
