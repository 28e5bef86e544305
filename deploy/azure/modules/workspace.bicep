// Azure Machine Learning: the workspace with registry, key vault and insights, its computes, datastore and endpoint.
param environmentName string
param location string
param endpointName string
param trainingMachine string
param batchMachine string
param privateNetworking bool
param storageAccountName string
param containerName string
param clusterId string
param platformIdentityName string
param scoringIdentityName string

@secure()
param databasePassword string

@secure()
param loginClientSecret string

@description('azure_ml.compute')
param trainingComputeName string = 'gpu-cluster'

@description('azure_ml.batch_compute')
param batchComputeName string = 'cpu-cluster'

@description('azure_ml.datastore')
param datastoreName string = 'active_learning'

var unique = take(uniqueString(resourceGroup().id), 6)
var access = privateNetworking ? 'Disabled' : 'Enabled'

resource account 'Microsoft.Storage/storageAccounts@2024-01-01' existing = {
  name: storageAccountName
}

resource platform 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: platformIdentityName
}

resource scoring 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: scoringIdentityName
}

resource logs 'Microsoft.OperationalInsights/workspaces@2021-06-01' = {
  name: 'log-${environmentName}'
  location: location
  properties: {
    retentionInDays: 30
    sku: {
      name: 'PerGB2018'
    }
  }
}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: 'appi-${environmentName}'
  location: location
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: logs.id
  }
}

resource vault 'Microsoft.KeyVault/vaults@2023-02-01' = {
  name: 'kv-${environmentName}-${unique}'
  location: location
  properties: {
    tenantId: tenant().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 7 // torn down and set up again, the vault has the same name
    publicNetworkAccess: access
  }
}

resource passwordSecret 'Microsoft.KeyVault/vaults/secrets@2023-02-01' = {
  parent: vault
  name: 'dagster-database-password'
  properties: {
    value: databasePassword
  }
}

resource loginSecret 'Microsoft.KeyVault/vaults/secrets@2023-02-01' = {
  parent: vault
  name: 'login-client-secret'
  properties: {
    value: empty(loginClientSecret) ? 'none' : loginClientSecret // a secret may not be empty
  }
}

// Signs what the labeling page calls its pictures: every replica has to call them alike. It stays the same over
// deployments, and nobody guesses it who does not know the password.
resource labelingSecret 'Microsoft.KeyVault/vaults/secrets@2023-02-01' = {
  parent: vault
  name: 'labeling-page-secret'
  properties: {
    value: guid(databasePassword, vault.id, 'labeling page')
  }
}

resource registry 'Microsoft.ContainerRegistry/registries@2025-04-01' = {
  name: 'cr${environmentName}${unique}'
  location: location
  sku: {
    name: privateNetworking ? 'Premium' : 'Basic' // only Premium has private endpoints
  }
  properties: {
    adminUserEnabled: false
    publicNetworkAccess: access
    networkRuleBypassOptions: 'AzureServices'
  }
}

resource workspace 'Microsoft.MachineLearningServices/workspaces@2024-10-01-preview' = {
  name: 'mlw-${environmentName}'
  location: location
  kind: 'Default'
  sku: {
    name: 'Basic'
    tier: 'Basic'
  }
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    storageAccount: account.id
    keyVault: vault.id
    containerRegistry: registry.id
    applicationInsights: insights.id
    systemDatastoresAuthMode: 'identity' // the account takes no keys
    imageBuildCompute: privateNetworking ? batchComputeName : null // the registry's own builders are outside
    publicNetworkAccess: access
    managedNetwork: {
      isolationMode: privateNetworking ? 'AllowInternetOutbound' : 'Disabled'
    }
  }
}

resource clusterRule 'Microsoft.MachineLearningServices/workspaces/outboundRules@2024-10-01-preview' = if (privateNetworking) {
  parent: workspace
  name: 'data-explorer'
  properties: {
    type: 'PrivateEndpoint'
    category: 'UserDefined'
    destination: {
      serviceResourceId: clusterId
      subresourceTarget: 'cluster'
    }
  }
}

resource datastore 'Microsoft.MachineLearningServices/workspaces/datastores@2024-10-01-preview' = {
  parent: workspace
  name: datastoreName
  properties: {
    datastoreType: 'AzureBlob'
    accountName: account.name
    containerName: containerName
    endpoint: environment().suffixes.storage
    protocol: 'https'
    credentials: {
      credentialsType: 'None' // whoever asks: the compute's identity, the endpoint's
    }
  }
}

var computes = [
  { name: trainingComputeName, machine: trainingMachine, most: 1 }
  { name: batchComputeName, machine: batchMachine, most: 4 }
]

resource clusters 'Microsoft.MachineLearningServices/workspaces/computes@2024-10-01-preview' = [for compute in computes: {
  parent: workspace
  name: compute.name
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${scoring.id}': {}
    }
  }
  properties: {
    computeType: 'AmlCompute'
    properties: {
      vmSize: compute.machine
      vmPriority: 'Dedicated'
      osType: 'Linux'
      remoteLoginPortPublicAccess: 'Disabled'
      enableNodePublicIp: !privateNetworking
      scaleSettings: {
        minNodeCount: 0
        maxNodeCount: compute.most
        nodeIdleTimeBeforeScaleDown: 'PT600S'
      }
    }
  }
}]

resource endpoint 'Microsoft.MachineLearningServices/workspaces/onlineEndpoints@2024-10-01-preview' = {
  parent: workspace
  name: endpointName
  location: location
  kind: 'Managed'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${scoring.id}': {}
    }
  }
  properties: {
    authMode: 'AADToken'
    publicNetworkAccess: access
  }
  dependsOn: [
    scoringMayPull
  ]
}

var acrPull = '7f951dda-4ed3-4680-a7ca-43fe172d538d' // AcrPull
var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6' // Key Vault Secrets User
var workspaceRoles = [
  'f6c7c914-8db3-469d-8ca1-694a8f32e121' // AzureML Data Scientist
  '43d0d8ad-25c7-4714-9337-8ba259a9fe05' // Monitoring Reader
]

resource platformInWorkspace 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for role in workspaceRoles: {
  name: guid(workspace.id, platform.id, role)
  scope: workspace
  properties: {
    principalId: platform.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', role)
  }
}]

resource scoringMayPull 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, scoring.id, acrPull)
  scope: registry
  properties: {
    principalId: scoring.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', acrPull)
  }
}

resource platformMayPull 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(registry.id, platform.id, acrPull)
  scope: registry
  properties: {
    principalId: platform.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', acrPull)
  }
}

resource platformMayReadSecrets 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, platform.id, secretsUser)
  scope: vault
  properties: {
    principalId: platform.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
  }
}

output workspaceId string = workspace.id
output workspaceName string = workspace.name
output datastoreName string = datastore.name
output vaultId string = vault.id
output vaultUri string = vault.properties.vaultUri
output registryId string = registry.id
output registryServer string = registry.properties.loginServer
output logsName string = logs.name
